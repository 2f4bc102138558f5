//! The enforcer on the real kernel: every test has its own network namespaces, instance of pins and DNS link, and
//! runs beside the others.

mod attach;
mod dns;
mod lab;
mod traffic;
