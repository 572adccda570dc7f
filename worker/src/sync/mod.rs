//! Coordination between instances: the gateway they talk to, and the replicated log behind it.
