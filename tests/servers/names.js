// Which name each request was for, as node's server reads it: "name=NAME\n" per request.
const http = require('http')

const server = http.createServer({ insecureHTTPParser: true }, (request, response) => {
  const absolute = /^[a-z]+:\/\/([^/?#]*)/i.exec(request.url)
  request.resume()
  request.on('end', () => response.end(`name=${absolute ? absolute[1] : request.headers.host}\n`))
})
server.on('connect', (request, socket) => socket.end(`name=${request.url}\n`))
server.on('upgrade', (request, socket) => socket.end(`name=${request.headers.host}\n`))
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
