'use strict'

// Testground's cases about the data network, on the published JavaScript SDK as it is.
const { invokeMap, network } = require('@testground/sdk')

const configure = require('./cases/configure')
const pingPong = require('./cases/ping-pong')
const splitbrain = require('./cases/splitbrain')
const traffic = require('./cases/traffic')
const usesDataNetwork = require('./cases/uses-data-network')

const initialized = play => async (runenv, client) => {
  const net = network.newClient(client, runenv)
  await net.waitNetworkInitialized()
  await play({ runenv, client, net })
}

invokeMap({
  configure: initialized(configure),
  'ping-pong': initialized(pingPong),
  'splitbrain-accept': initialized(splitbrain('accept')),
  'splitbrain-reject': initialized(splitbrain('reject')),
  'splitbrain-drop': initialized(splitbrain('drop')),
  'traffic-allowed': initialized(traffic('allowed')),
  'traffic-blocked': initialized(traffic('blocked')),
  'uses-data-network': initialized(usesDataNetwork)
})
