// An HTTP server of Node.js with keep-alive: it counts requests, in memory.
const http = require("http");

let count = 0;
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (chunk) => { body += chunk; });
  request.on("end", () => {
    count += 1;
    response.end(`count ${body} ${count}`);
  });
});
server.keepAliveTimeout = 600000;
server.listen(Number(process.argv[2]), "0.0.0.0");
