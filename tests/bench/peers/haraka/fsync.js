// Syncs a queue file before it is renamed, and so before the 250, as Haraka's own FsyncWriteStream means to. Its close() is what syncs; the streams of
// today's Node close themselves in _destroy() and never call it: without this, strace shows not one fsync for a message.
// The folder is not synced after the rename: Haraka never meant to.
const fs = require('node:fs');
exports.register = function () {
  const stream = this.haraka_require('outbound/fsync_writestream').prototype, close = stream._destroy;
  stream._destroy = function (fault, done) {
    if (fault || typeof this.fd !== 'number') close.call(this, fault, done);
    else fs.fsync(this.fd, (failed) => close.call(this, failed, done));
  };
};
