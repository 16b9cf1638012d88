const fs = require('fs'), {Worker} = require('worker_threads'), zlib = require('zlib');
fs.promises.writeFile('out.txt', 'written').then(async () => {
  const text = await fs.promises.readFile('out.txt', 'utf8');
  zlib.gzip(text, (_, z) => zlib.gunzip(z, (_, back) => {
    const source = "require('worker_threads').parentPort.postMessage(6 * 7)";
    new Worker(source, {eval: true}).on('message', n => console.log(String(back), n));
  }));
});
