//! The text of a key: how it is made, and what is kept of it.

use sha2::{Digest, Sha256};

use super::Scope;
use crate::error::Error;

/// Characters of a secret after its prefix: 43 of 62 hold 256 bits.
const SECRET_CHARS: usize = 43;

/// Characters of a secret that are shown in lists, after the scope's prefix.
const PUBLIC_CHARS: usize = 6;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret text of a key. It has no `Debug` that shows it.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Secret").field(&self.prefix()).finish()
    }
}

impl Secret {
    /// Draws a new key, as in `bk_client_…`, from the machine's random source.
    pub fn generate(scope: Scope) -> Result<Self, Error> {
        let mut text = format!("bk_{}_", scope.as_str());
        let end = text.len() + SECRET_CHARS;
        let mut random = [0_u8; 64];
        while text.len() < end {
            getrandom::fill(&mut random)
                .map_err(|error| Error::Internal(format!("no random bytes: {error}")))?;
            // 248 is the largest multiple of 62 in a byte; above it the characters would be biased.
            let unbiased = random.iter().filter(|byte| **byte < 248);
            let left = end - text.len();
            text.extend(
                unbiased
                    .take(left)
                    .map(|byte| char::from(ALPHABET[usize::from(byte % 62)])),
            );
        }
        Ok(Self(text))
    }

    /// A key somebody chose, as from the environment.
    pub fn chosen(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The whole text, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept to find and compare the key.
    pub fn hash(&self) -> [u8; 32] {
        digest(&self.0)
    }

    /// What lists show of the key: little enough that it helps nobody to guess the rest.
    pub fn prefix(&self) -> String {
        let generated = ["bk_client_", "bk_read_", "bk_admin_"]
            .iter()
            .find(|prefix| self.0.starts_with(**prefix));
        let shown = match generated {
            Some(prefix) => prefix.len() + PUBLIC_CHARS,
            // A chosen key may be short: at most a quarter of it is shown.
            None => (self.0.chars().count() / 4).min(PUBLIC_CHARS),
        };
        self.0.chars().take(shown).collect()
    }
}

/// SHA-256 of a key's text. Keys are long and random, so no slow hash is needed.
pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn generated_keys_are_long_differ_and_name_their_scope() {
        let one = Secret::generate(Scope::Client).unwrap();
        let two = Secret::generate(Scope::Client).unwrap();
        assert_ne!(one.reveal(), two.reveal());
        assert!(one.reveal().starts_with("bk_client_"));
        assert_eq!(one.reveal().len(), "bk_client_".len() + SECRET_CHARS);
        assert!(one.prefix().len() < one.reveal().len() / 2);
        assert_eq!(one.hash(), digest(one.reveal()));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let secret = Secret::chosen("wk_test_1234567890");
        assert_eq!(secret.prefix(), "wk_t");
        assert!(!format!("{secret:?}").contains("1234567890"));
    }
}
