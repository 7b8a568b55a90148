//! Tokens a vendor has us make ourselves: JWTs (RFC 7519) signed with a key the vendor knows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value as Json;

/// How a vendor wants it signed (RFC 7518).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSA with PSS.
    Ps256,
    /// RSA with PKCS #1.
    Rs256,
}

/// Signs `claims`. `pem` is a PKCS #8 private key, as the vendors hand them out.
///
/// # Errors
/// A sentence that says what is wrong with the key; never the key.
pub fn sign(algorithm: Algorithm, pem: &str, key_id: &str, claims: &Json) -> Result<String, String> {
    let name = match algorithm {
        Algorithm::Es256 => "ES256",
        Algorithm::Ps256 => "PS256",
        Algorithm::Rs256 => "RS256",
    };
    let header = serde_json::json!({ "alg": name, "kid": key_id, "typ": "JWT" });
    let encode = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", encode(&header), encode(claims));
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "the key is not a PEM file with a PKCS #8 private key (`BEGIN PRIVATE KEY`)".to_owned())?;
    let key = key.secret_pkcs8_der();
    let random = SystemRandom::new();
    let signature = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random)
            .map_err(|e| format!("the key is no P-256 key: {e}"))?
            .sign(&random, message.as_bytes())
            .map_err(|_| "the key cannot sign".to_owned())?
            .as_ref()
            .to_vec(),
        Algorithm::Ps256 | Algorithm::Rs256 => {
            let padding: &dyn RsaEncoding =
                if algorithm == Algorithm::Ps256 { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
            let key = RsaKeyPair::from_pkcs8(key).map_err(|e| format!("the key is no RSA key: {e}"))?;
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(padding, &random, message.as_bytes(), &mut signature)
                .map_err(|_| "the key cannot sign".to_owned())?;
            signature
        }
    };
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
