// What js-libp2p 3 uses and Node 20 lacks. Loaded before everything else.
import WebSocket from 'ws'

globalThis.WebSocket ??= WebSocket
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((...both) => { [resolve, reject] = both })
  return { promise, resolve, reject }
}
