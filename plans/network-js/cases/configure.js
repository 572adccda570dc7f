'use strict'

/** Applies a network configuration that is given as JSON. */
module.exports = async function configure ({ runenv, net }) {
  await net.configureNetwork({
    network: 'default',
    enable: true,
    default: {},
    callbackState: 'configured',
    ...JSON.parse(runenv.testInstanceParams.config)
  })
}
