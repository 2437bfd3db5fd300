// One address a line in hex on standard input; what mailparser's address parser reads, one JSON array a line.
//     NODE_PATH=build/npm/node_modules node tests/golden/verify_addresses.js
'use strict';
const addressparser = require('nodemailer/lib/addressparser');

const flat = (list) => list.flatMap((a) => a.group ? flat(a.group) : [{ email: a.address, name: a.name }]);
const lines = require('fs').readFileSync(0, 'latin1').split('\n').slice(0, -1);
for (const line of lines) {
    process.stdout.write(JSON.stringify(flat(addressparser(Buffer.from(line, 'hex').toString('utf8')))) + '\n');
}
