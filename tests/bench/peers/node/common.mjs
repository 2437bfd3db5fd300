// What a team writes itself in a week: Express takes the message, a queue keeps it, nodemailer signs and sends it.
import { createRequire } from 'node:module';
import fs from 'node:fs';
const require = createRequire(process.env.NODE_PATH + '/');
export const express = require('express');
export const nodemailer = require('nodemailer');
export const Redis = require('ioredis');
export const env = process.env;
export const sqlite = () => {
  const Database = require('better-sqlite3');
  const db = new Database(env.BENCH_FOLDER + '/queue.db');
  // an answer is given after the sync, as postchute does
  db.pragma('journal_mode = WAL');
  db.pragma('synchronous = FULL');
  db.exec('CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, body TEXT NOT NULL);' +
    'CREATE INDEX IF NOT EXISTS job_open ON job (state) WHERE state < 2;');
  return db;
};
export const transport = () => nodemailer.createTransport({
  host: '127.0.0.1', port: Number(env.BENCH_SINK), secure: false,
  // the receiver's certificate is its own, as with mail from server to server
  ...(env.BENCH_TLS === '1' ? { tls: { rejectUnauthorized: false } } : { ignoreTLS: true }),
  // sessions are kept; ten of each worker make the twenty that the others have
  pool: true, maxConnections: 10, maxMessages: Infinity,
  ...(env.BENCH_KEY && { dkim: { domainName: 'acme.test', keySelector: 's0', privateKey: fs.readFileSync(env.BENCH_KEY, 'utf8') } }),
});
