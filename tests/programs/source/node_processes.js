const {fork, execFileSync} = require('child_process'), net = require('net');
if (process.send) process.on('message', n => { process.send(n * n); process.disconnect(); });
else {
  const child = fork(__filename);
  child.on('message', n => {
    const server = net.createServer(one => one.end('over a path')).listen('/tmp/socket', () =>
      net.connect('/tmp/socket').on('data', text => {
        console.log(n, String(text), String(execFileSync('echo', ['run'])).trim());
        server.close();
      }));
  });
  child.send(6);
}
