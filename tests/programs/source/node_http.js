const http = require('http');
const server = http.createServer((ask, answer) => answer.end('asked for ' + ask.url));
server.listen(0, '127.0.0.1', () =>
  http.get({port: server.address().port, host: '127.0.0.1', path: '/x'}, answer =>
    answer.on('data', text => { console.log(String(text)); server.close(); server.closeAllConnections(); })));
