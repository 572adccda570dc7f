// Serves one exposed port: `/who` says which addresses the instance has, `/try?…` what becomes of each attempt to
// reach something, `/heard` who has spoken to it, `/end` ends it.
const { execFile } = require('child_process')
const dgram = require('dgram')
const http = require('http')
const net = require('net')
const os = require('os')

const PORT = 7000
const PATIENCE = 1500
const heard = []

// Node.js has no sockets for it, and `ping` is not everywhere.
const PING = `
use Socket qw(:DEFAULT :addrinfo);
my ($err, $to) = getaddrinfo($ARGV[0], "", { flags => AI_NUMERICHOST, socktype => SOCK_DGRAM });
die "$err\\n" if $err;
my ($protocol, $request) = $to->{family} == AF_INET6 ? (58, 128) : (1, 8);
socket(my $socket, $to->{family}, SOCK_DGRAM, $protocol) or die "no socket: $!\\n";
connect($socket, $to->{addr}) or die "$!\\n";
send($socket, pack("CCnnn", $request, 0, 0, 0, 1), 0) or die "$!\\n";
vec(my $readable = "", fileno($socket), 1) = 1;
select($readable, undef, undef, ${PATIENCE / 1000}) or die "silence\\n";
defined(recv($socket, my $answer, 99, 0)) or die "$!\\n";
`

for (const type of ['udp4', 'udp6']) {
  const socket = dgram.createSocket({ type, ipv6Only: type === 'udp6', reuseAddr: true })
  socket.on('message', (message, from) => {
    heard.push(`udp ${from.address}`)
    socket.send('answer', from.port, from.address, () => {})
  })
  socket.bind(PORT, type === 'udp4' ? '0.0.0.0' : '::')
  if (type === 'udp4') socket.on('listening', () => socket.addMembership('224.0.0.251', own('IPv4')))
}
net.createServer(socket => {
  heard.push(`tcp ${socket.remoteAddress.replace('::ffff:', '')}`)
  socket.on('error', () => {}).end('hello')
}).listen(PORT, '::')

function own (family) {
  return os.networkInterfaces().eth1.find(one => one.family === family && !one.address.startsWith('fe80')).address
}

const ways = {
  udp: (host, port) => new Promise(done => {
    const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4')
    const end = what => { clearTimeout(timer); socket.close(); done(what) }
    const timer = setTimeout(() => end('silence'), PATIENCE)
    socket.on('message', () => end('answer')).on('error', err => end(err.code))
    socket.bind(0, () => {
      if (!host.includes(':')) socket.setBroadcast(true)
      socket.send('ask', port, host, err => { if (err) end(err.code) })
    })
  }),
  tcp: (host, port) => new Promise(done => {
    const socket = net.connect({ host, port })
    const end = what => { clearTimeout(timer); socket.destroy(); done(what) }
    const timer = setTimeout(() => end('silence'), PATIENCE)
    socket.on('connect', () => end('answer')).on('error', err => end(err.code))
  }),
  ping: host => new Promise(done => {
    execFile('perl', ['-e', PING, host], (err, out, said) => done(err ? said.trim() : 'answer'))
  })
}

http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://instance')
  const answers = {
    '/who': async () => ({ v4: own('IPv4'), v6: own('IPv6') }),
    '/heard': async () => heard.splice(0),
    '/try': async () => Object.fromEntries(await Promise.all(url.searchParams.getAll('reach').map(async attempt => {
      const [how, host, port] = attempt.split(' ')
      return [attempt, await ways[how](host, Number(port || PORT))]
    }))),
    '/end': async () => console.log('{"event":{"success_event":{}}}')
  }
  response.end(JSON.stringify(await answers[url.pathname]() ?? null), () => {
    if (url.pathname === '/end') process.exit(0)
  })
}).listen(6060, '127.0.0.1')
