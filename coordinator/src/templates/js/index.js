// One instance of the plan.
const { invokeMap } = require('@testground/sdk')

async function hello (runenv, client) {
  const greeting = runenv.testInstanceParams.greeting
  runenv.recordMessage(`${greeting}, from an instance of ${runenv.testGroupId}`)

  // Everyone says hello, and nobody leaves before all have.
  await client.signalAndWait('said-hello', runenv.testInstanceCount)
}

invokeMap({
  hello: async (runenv) => {
    const { sync } = require('@testground/sdk')
    const client = await sync.newBoundClient(runenv)
    try {
      await hello(runenv, client)
    } finally {
      client.close()
    }
  }
})
