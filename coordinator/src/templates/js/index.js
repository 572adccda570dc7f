// One instance of the plan.
const { invokeMap } = require('@testground/sdk')

async function hello (runenv, client) {
  const greeting = runenv.testInstanceParams.greeting
  runenv.recordMessage(`${greeting}, from an instance of ${runenv.testGroupId}`)

  // Everyone says hello, and nobody leaves before all have.
  await client.signalAndWait('said-hello', runenv.testInstanceCount)
}

// A case with two arguments gets a sync client; returning is success, throwing is failure.
invokeMap({ hello })
