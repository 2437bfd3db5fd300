// Verifies and parses every *.eml of a directory with mailauth and mailparser; one JSON line each.
//     NODE_PATH=build/npm/node_modules node tests/golden/verify_npm.js DIRECTORY [--dkim-only]
'use strict';
const fs = require('fs');
const path = require('path');
const { dkimVerify } = require('mailauth/lib/dkim/verify');
const { simpleParser } = require('mailparser');
const libmime = require('libmime');

const directory = process.argv[2];
const dkimOnly = process.argv[3] === '--dkim-only';
const records = new Map(
    fs.readFileSync(path.join(directory, 'keys'), 'utf8').trim().split('\n')
        .map((line) => [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1)]));

async function resolver(name, type) {
    if (type === 'TXT' && records.has(name)) return [[records.get(name)]];
    const err = new Error('no such name');
    err.code = 'ENOTFOUND';
    throw err;
}

// mailparser gives one object for a field, an array for repeated ones, and groups without members' addresses
const people = (field) => [].concat(field || []).flatMap((f) => f.value || [])
    .filter((a) => a.address).map((a) => ({ name: a.name, email: a.address }));

async function parse(bytes) {
    const m = await simpleParser(bytes, { skipHtmlToText: true, skipTextToHtml: true, skipImageLinks: true,
        skipTextLinks: true });
    return {
        from: people(m.from), to: people(m.to), cc: people(m.cc), bcc: people(m.bcc), reply_to: people(m.replyTo),
        subject: m.subject, text: m.text, html: m.html, message_id: m.messageId, in_reply_to: m.inReplyTo,
        references: [].concat(m.references || []),
        headers: m.headerLines.filter((h) => h.key.startsWith('x-custom')).map((h) => [h.key,
            libmime.decodeWords(libmime.decodeHeader(h.line).value)]),
        attachments: m.attachments.map((a) => ({ filename: a.filename, type: a.contentType, cid: a.cid,
            disposition: a.contentDisposition, content: a.content.toString('base64') })),
    };
}

(async () => {
    for (const name of fs.readdirSync(directory).filter((n) => n.endsWith('.eml')).sort()) {
        const bytes = fs.readFileSync(path.join(directory, name));
        const { results } = await dkimVerify(bytes, { resolver, minBitLength: 1024 });
        const dkim = results.map((r) => [r.selector, r.status.result, r.status.comment || '']);
        process.stdout.write(JSON.stringify({ name, dkim, parsed: dkimOnly ? null : await parse(bytes) }) + '\n');
    }
})().catch((e) => { console.error(e); process.exit(1); });
