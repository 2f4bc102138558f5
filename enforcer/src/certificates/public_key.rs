//! The public key of a request for a certificate (PKCS #10, RFC 2986), on the curve P-256, which is what [`request`](super::request)
//! makes. Nothing else of a request is looked at.
//!
//! That who asks has the private key is not checked: without it the certificate is of no use to anybody.

use nameward_feed::tls::pem;
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};

/// What stands in front of the point in a `SubjectPublicKeyInfo` of this curve, after its own tag and length (RFC 5480): algorithm
/// id-ecPublicKey, parameters prime256v1, a bit string of 66 octets without unused bits, an uncompressed point.
const P256: [u8; 24] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Octets of a point: one that says uncompressed, and two coordinates.
const POINT: usize = 65;
const UNCOMPRESSED: u8 = 4;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// A point on the curve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PublicKey([u8; POINT]);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The key of a request in PEM form; none where it is no such request.
pub(super) fn of_request(text: &str) -> Option<PublicKey> {
    let request = pem::certificate_request(text)?;
    let (request, _) = element(&request, SEQUENCE)?;
    let (about, _) = element(request, SEQUENCE)?;
    let (_version, rest) = element(about, INTEGER)?;
    let (_subject, rest) = element(rest, SEQUENCE)?;
    let (key, _attributes) = element(rest, SEQUENCE)?;
    let point: [u8; POINT] = key.strip_prefix(&P256)?.try_into().ok()?;
    (point[0] == UNCOMPRESSED).then_some(PublicKey(point))
}

/// The contents of the element with this tag at the beginning (DER), and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ ..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*first == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_key_of_a_request_is_found_and_nothing_is_read_past_its_end() {
        let key = KeyPair::generate().unwrap();
        // Long names make long lengths.
        for names in
            [vec!["node-1".to_owned()], (0..40).map(|number| format!("node-{number}.example")).collect()]
        {
            let request = CertificateParams::new(names).unwrap().serialize_request(&key).unwrap();
            let read = of_request(&request.pem().unwrap()).unwrap();
            assert_eq!(read.der_bytes(), key.der_bytes());
            let whole = request.der();
            for end in 0..whole.len() {
                assert_eq!(element(&whole[..end], SEQUENCE), None, "cut at {end}");
            }
        }
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        for text in
            ["", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", &certificate]
        {
            assert_eq!(of_request(text), None, "{text}");
        }
    }
}
