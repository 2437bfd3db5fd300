import { Redis, env, sqlite, transport } from './common.mjs';
const PARALLEL = 20;
const smtp = transport();
const send = (text) => {
  const m = JSON.parse(text);
  return smtp.sendMail({ from: m.from, to: m.to, subject: m.subject, text: m.text, headers: m.headers });
};
const pause = (ms) => new Promise((r) => setTimeout(r, ms));
const retryMs = Number(env.BENCH_RETRY) * 1000;

if (env.BENCH_QUEUE === 'redis') {
  const redis = new Redis(env.BENCH_REDIS), name = 'worker-' + process.pid;
  await redis.xgroup('CREATE', 'mail', 'workers', '0', 'MKSTREAM').catch(() => {});
  const one = async ([id, fields]) => {
    for (;;) {
      try { await send(fields[1]); break; } catch { await pause(retryMs); }
    }
    await redis.multi().xack('mail', 'workers', id).xdel('mail', id).exec();
  };
  const reader = new Redis(env.BENCH_REDIS);
  let busy = 0;
  for (;;) {
    if (busy >= PARALLEL) { await pause(1); continue; }
    const got = await reader.xreadgroup('GROUP', 'workers', name, 'COUNT', PARALLEL - busy, 'BLOCK', 1000, 'STREAMS', 'mail', '>');
    for (const job of got?.[0]?.[1] ?? []) {
      busy++;
      one(job).finally(() => busy--);
    }
  }
} else {
  const db = sqlite();
  const claim = db.prepare('UPDATE job SET state = 1 WHERE id IN (SELECT id FROM job WHERE state = 0 LIMIT ?) RETURNING id, body');
  const remove = db.prepare('DELETE FROM job WHERE id = ?');
  const removeAll = db.transaction((list) => list.forEach((id) => remove.run(id)));
  let busy = 0, sent = [];
  db.pragma('busy_timeout = 5000');
  const one = async (job) => {
    for (;;) {
      try { await send(job.body); break; } catch { await pause(retryMs); }
    }
    sent.push(job.id);
  };
  for (;;) {
    if (sent.length) { removeAll(sent); sent = []; }
    const jobs = busy < PARALLEL / 2 ? claim.all(PARALLEL - busy) : [];
    for (const job of jobs) {
      busy++;
      one(job).finally(() => busy--);
    }
    await pause(jobs.length || sent.length ? 1 : 5);
  }
}
