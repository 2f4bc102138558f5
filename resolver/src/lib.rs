//! The DNS proxy: who asks, may it, answer, grant, then reply.
