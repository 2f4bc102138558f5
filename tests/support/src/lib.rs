//! Namespaces, a small internet, scripted DNS for tests and the demo.
