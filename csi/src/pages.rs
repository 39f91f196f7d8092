//! Lists in pages. A token names the last item that was given, so that what is made or deleted between
//! two pages moves no other item into or out of them.

use tonic::Status;

/// What a token begins with.
const TOKEN_PREFIX: &str = "after-";

/// One page, and the token for the next one, empty where there is none.
pub(crate) struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The token.
    pub next: String,
}

/// The page of `items` that begins after `token`, with `most` of them (all where it is 0). `key` orders
/// the items; the same item always has the same one.
///
/// # Errors
/// INVALID_ARGUMENT for a negative count; ABORTED for a token that none of these lists gave, so that
/// the caller begins again.
pub(crate) fn page<T>(
    mut items: Vec<T>,
    most: i32,
    token: &str,
    key: impl Fn(&T) -> (u64, u32),
) -> Result<Page<T>, Status> {
    let most = usize::try_from(most)
        .map_err(|_| Status::invalid_argument(format!("`max_entries` is {most}")))?;
    items.sort_by_key(&key);
    if !token.is_empty() {
        let after = parse(token)
            .ok_or_else(|| Status::aborted(format!("`{token}` is no token of a list")))?;
        items.retain(|item| key(item) > after);
    }
    let mut next = String::new();
    if most > 0 && items.len() > most {
        items.truncate(most);
        if let Some((major, minor)) = items.last().map(&key) {
            next = format!("{TOKEN_PREFIX}{major:x}-{minor:x}");
        }
    }
    Ok(Page { items, next })
}

fn parse(token: &str) -> Option<(u64, u32)> {
    let (major, minor) = token.strip_prefix(TOKEN_PREFIX)?.split_once('-')?;
    let major = u64::from_str_radix(major, 16).ok()?;
    Some((major, u32::from_str_radix(minor, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(items: &[u64], most: i32, token: &str) -> Result<(Vec<u64>, String), Status> {
        let page = page(items.to_vec(), most, token, |item| (*item, 0))?;
        Ok((page.items, page.next))
    }

    #[test]
    fn pages_give_each_item_once_whatever_comes_and_goes() {
        let (first, token) = of(&[30, 10, 20, 40], 2, "").unwrap();
        assert_eq!(first, [10, 20]);
        let (second, end) = of(&[30, 10, 15, 40], 2, &token).unwrap();
        assert_eq!((second, end.as_str()), (vec![30, 40], ""));
    }

    #[test]
    fn without_a_count_all_are_given() {
        let (all, token) = of(&[3, 1, 2], 0, "").unwrap();
        assert_eq!((all, token.as_str()), (vec![1, 2, 3], ""));
    }

    #[test]
    fn strange_tokens_and_counts_are_refused() {
        for token in [
            "invalid-token",
            "after-",
            "after-x-1",
            "after-1",
            "after--1-1",
        ] {
            let code = of(&[1], 1, token).unwrap_err().code();
            assert_eq!(code, tonic::Code::Aborted, "{token}");
        }
        let code = of(&[1], -1, "").unwrap_err().code();
        assert_eq!(code, tonic::Code::InvalidArgument);
    }
}
