// Takes everything from local clients and sends it to the bench's receiver.
exports.register = function () {
  this.register_hook('connect', 'take');
  this.register_hook('rcpt', 'rcpt');
  this.register_hook('get_mx', 'route');
};
exports.take = (next, connection) => { connection.relaying = true; next(); };
exports.rcpt = (next) => next(OK);
exports.route = (next) => next(OK, { priority: 0, exchange: '127.0.0.1', port: Number(process.env.BENCH_SINK) });
