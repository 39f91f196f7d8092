//! Which items of a list are asked for: by labels and by the beginning of names. Pure.
//!
//! ```text
//! selector = term *("," term)
//! term     = NAME "=" VALUE | NAME "!=" VALUE | NAME | "!" NAME
//! ```

use std::collections::BTreeMap;
use std::str::FromStr;

/// Most terms of one selector.
const TERMS_MAX: usize = 32;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

/// Conditions on labels, all of which hold for what is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Term>);

/// The text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`labels` cannot be read: give NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between, \
     {TERMS_MAX} at most"
)]
pub(crate) struct ParseSelectorError;

impl FromStr for LabelSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let terms: Result<Vec<Term>, _> = text.split(',').map(str::trim).map(term).collect();
        let terms = terms?;
        if terms.len() > TERMS_MAX {
            return Err(ParseSelectorError);
        }
        Ok(Self(terms))
    }
}

fn term(text: &str) -> Result<Term, ParseSelectorError> {
    let (name, term) = if let Some((name, value)) = text.split_once("!=") {
        (name, Term::IsNot(name.to_owned(), value.to_owned()))
    } else if let Some((name, value)) = text.split_once('=') {
        (name, Term::Is(name.to_owned(), value.to_owned()))
    } else if let Some(name) = text.strip_prefix('!') {
        (name, Term::HasNot(name.to_owned()))
    } else {
        (text, Term::Has(text.to_owned()))
    };
    if name.is_empty() {
        Err(ParseSelectorError)
    } else {
        Ok(term)
    }
}

impl LabelSelector {
    /// Whether these labels are as it asks.
    pub(crate) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Is(name, value) => labels.get(name) == Some(value),
            Term::IsNot(name, value) => labels.get(name) != Some(value),
            Term::Has(name) => labels.contains_key(name),
            Term::HasNot(name) => !labels.contains_key(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str) -> bool {
        let labels = [("tier", "gold"), ("app", "db")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let selector: LabelSelector = selector.parse().unwrap();
        selector.selects(&BTreeMap::from(labels))
    }

    #[test]
    fn all_terms_must_hold() {
        for selector in [
            "tier=gold",
            "tier",
            "!zone",
            "zone!=a",
            "tier=gold, app=db,app",
        ] {
            assert!(selects(selector), "{selector}");
        }
        for selector in ["tier=silver", "zone", "!app", "app!=db", "tier=gold,zone=a"] {
            assert!(!selects(selector), "{selector}");
        }
    }

    #[test]
    fn what_names_no_label_is_refused() {
        let many = "a,".repeat(TERMS_MAX) + "a";
        for text in ["", ",", "=a", "!=a", "!", "a,", &many] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text}");
        }
    }
}
