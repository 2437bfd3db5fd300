# One address a line in hex on standard input; what Email::Address::XS reads, one JSON array a line.
use strict;
use warnings;
use Encode qw(decode);
use Email::Address::XS;
use JSON::PP;

my $json = JSON::PP->new->utf8->canonical;
while (my $line = <STDIN>) {
    chomp $line;
    my $text = decode('UTF-8', pack('H*', $line));
    my @out;
    for my $a (Email::Address::XS->parse($text)) {
        push @out, {
            valid => $a->is_valid ? JSON::PP::true : JSON::PP::false,
            local => defined $a->user ? $a->user : '',
            domain => defined $a->host ? $a->host : '',
            name => defined $a->phrase ? $a->phrase : '',
        };
    }
    print $json->encode(\@out), "\n";
}
