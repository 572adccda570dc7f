import { Instance } from './instance.mjs'
import { cases } from './interop.mjs'

await Instance.run(cases)
