import { express, Redis, env, sqlite } from './common.mjs';
const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.use(express.json({ limit: '40mb' }));

let save;
if (env.BENCH_QUEUE === 'redis') {
  const redis = new Redis(env.BENCH_REDIS);
  save = (body) => redis.xadd('mail', '*', 'body', JSON.stringify(body));
} else {
  // group commit: what came in during one turn of the loop is one transaction
  const db = sqlite();
  const put = db.prepare('INSERT INTO job (state, body) VALUES (0, ?)');
  const putAll = db.transaction((list) => list.map((w) => put.run(w.text).lastInsertRowid));
  let waiting = [];
  save = (body) => new Promise((resolve, reject) => {
    if (waiting.length === 0)
      setImmediate(() => {
        const list = waiting;
        waiting = [];
        try {
          putAll(list).forEach((id, i) => list[i].resolve(id));
        } catch (e) {
          list.forEach((w) => w.reject(e));
        }
      });
    waiting.push({ text: JSON.stringify(body), resolve, reject });
  });
}
app.post('/send', async (req, res) => {
  if (!req.body.from || !Array.isArray(req.body.to)) return res.status(400).json({ error: 'from and to are needed' });
  res.status(202).json({ id: String(await save(req.body)) });
});
app.listen(Number(env.BENCH_PORT), '127.0.0.1', 1024);
