// The tutorial's event stream server, turned into a fan-out: GET subscribes, POST publishes its body.
const http = require('node:http');

const port = Number(process.argv[2]);
// Bytes that a slow subscriber may be behind.
const queue = 1 << 20;
const streams = new Set();

const server = http.createServer((request, response) => {
  if (request.method === 'GET') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    response.write(':\n\n');
    streams.add(response);
    response.on('close', () => streams.delete(response));
    return;
  }
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const data = Buffer.concat(pieces).toString().split('\n').map((line) => `data: ${line}\n`).join('');
    const frame = Buffer.from(`${data}\n`);
    for (const stream of streams) {
      if (stream.writableLength > queue) stream.destroy();
      else stream.write(frame);
    }
    response.writeHead(200, { 'Content-Length': 0 }).end();
  });
});

server.on('connection', (socket) => socket.setNoDelay(true));
setInterval(() => { for (const stream of streams) stream.write(':\n\n'); }, 15000).unref();
server.listen({ port, host: '127.0.0.1', backlog: 4096 });
