//! By which names a web page may not come: where nothing is asked of who asks, a browser must not be made to
//! ask in a page's name.
//!
//! A page whose name is made to resolve to this machine (DNS rebinding) is of the same origin as the API to
//! its browser, which then sends what the page likes from an address that is let in. But the browser says
//! in `Host` (RFC 9110 section 7.2) which name it went by, and in `Origin` (RFC 6454 section 7) whose page it
//! is. So who is let in for being on this machine goes by an IP address, `localhost`, or a name of this
//! machine's own. Where the API is open to all, other names are for what is no browser.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::request::Parts;
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderName, header};

use crate::access::caller::{Caller, Means};
use crate::refusal::AccessRefusal;

/// What browsers send of themselves, one of them at the least, and other clients do not unless told to.
const OF_BROWSERS: [HeaderName; 5] = [
    header::ORIGIN,
    header::REFERER,
    header::ACCEPT_LANGUAGE,
    header::COOKIE,
    HeaderName::from_static("sec-fetch-site"),
];

/// Names by which this conductor is asked beside addresses and `localhost`.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    own: Vec<String>,
}

impl Hosts {
    /// This machine's name, and the one in the URL at which others are told to reach the API.
    pub(crate) fn of(advertised: Option<&str>) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let machine = machine.map(|name| name.trim().to_ascii_lowercase());
        let advertised = advertised.and_then(Place::of_url);
        let named = machine
            .into_iter()
            .chain(advertised.map(|place| place.host));
        Self {
            own: named.filter(|name| !name.is_empty()).collect(),
        }
    }

    /// Refuses what a web page of elsewhere may have a browser send. It concerns those alone of whom nothing
    /// else is asked: a page has no key, and no certificate is of its name.
    ///
    /// # Errors
    /// [`AccessRefusal::ForeignHost`].
    pub(super) fn check(&self, caller: &Caller, parts: &Parts) -> Result<(), AccessRefusal> {
        let is_open = match caller.means {
            Means::Open => true,
            Means::Loopback => false,
            Means::Process | Means::Key(_) | Means::Token(_) | Means::Certificate => return Ok(()),
        };
        let may_be_page = !is_open
            || OF_BROWSERS
                .iter()
                .any(|name| parts.headers.contains_key(name));
        let asked = asked(parts).map_err(foreign)?;
        // Who names no host at all (HTTP/1.0) is no browser.
        for place in &asked {
            if may_be_page && !self.is_own(&place.host) {
                return Err(foreign(place.host.clone()));
            }
        }
        for origin in texts(&parts.headers, &header::ORIGIN) {
            let of_page =
                Place::of_url(&origin).filter(|place| asked.iter().any(|at| place.is(at)));
            if of_page.is_none() {
                return Err(foreign(origin));
            }
        }
        Ok(())
    }

    fn is_own(&self, host: &str) -> bool {
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_address = match inner {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok(),
        };
        // RFC 6761 section 6.3.
        let is_local = host == "localhost" || host.ends_with(".localhost");
        is_address || is_local || self.own.iter().any(|own| own == host)
    }
}

fn foreign(host: String) -> AccessRefusal {
    let host = host.chars().take(120).collect();
    AccessRefusal::ForeignHost { host }
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + 'a {
    let values = headers.get_all(name).into_iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Where the client believes that it asks: `Host`, and `:authority` (RFC 9113 section 8.3.1) or the whole URL
/// of the first line. What is no such thing is the error.
fn asked(parts: &Parts) -> Result<Vec<Place>, String> {
    let in_line = parts.uri.authority().map(|authority| authority.to_string());
    let named = texts(&parts.headers, &header::HOST).chain(in_line);
    named.map(|text| Place::parse(&text).ok_or(text)).collect()
}

/// A host, in lower case, and a port.
#[derive(Debug)]
struct Place {
    host: String,
    port: Option<u16>,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        let port = authority.port_u16();
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// Of `SCHEME://HOST:PORT`; the port is that of the scheme where there is none.
    fn of_url(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let usual = match uri.scheme_str()? {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let place = Self::parse(uri.authority()?.as_str())?;
        let port = place.port.or(Some(usual));
        Some(Self { port, ..place })
    }

    /// Whether a page of here is of the same origin as what is asked there, which may say no port.
    fn is(&self, asked: &Self) -> bool {
        let is_usual = matches!(self.port, Some(80 | 443));
        self.host == asked.host && asked.port.map_or(is_usual, |port| self.port == Some(port))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn check(means: Means, url: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let hosts = Hosts {
            own: vec!["meta-1".to_owned(), "meta.example".to_owned()],
        };
        hosts.check(&Caller::free(means), &parts).is_ok()
    }

    #[test]
    fn who_is_on_this_machine_goes_by_an_address_or_a_name_of_its_own() {
        for host in [
            "127.0.0.1:7100",
            "127.0.0.1",
            "10.0.0.1:7100",
            "[::1]:7100",
            "[::1]",
            "localhost:7100",
            "LOCALHOST.:7100",
            "api.localhost",
            "meta-1:7100",
            "Meta.Example:7100",
        ] {
            assert!(
                check(Means::Loopback, "/v1/volumes", &[("host", host)]),
                "{host}"
            );
        }
        for host in [
            "evil.example:7100",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "meta-2",
            "",
            "a b",
            "[evil]",
        ] {
            assert!(
                !check(Means::Loopback, "/v1/volumes", &[("host", host)]),
                "{host}"
            );
        }
        // As curl --http1.0 does.
        assert!(check(Means::Loopback, "/v1/volumes", &[]));
    }

    #[test]
    fn the_name_in_the_first_line_counts_as_the_header_does() {
        let near = ("host", "127.0.0.1:7100");
        assert!(check(
            Means::Loopback,
            "http://127.0.0.1:7100/v1/volumes",
            &[]
        ));
        assert!(!check(
            Means::Loopback,
            "http://evil.example/v1/volumes",
            &[near]
        ));
        let two = [near, ("host", "evil.example")];
        assert!(!check(Means::Loopback, "/v1/volumes", &two));
    }

    #[test]
    fn a_page_of_elsewhere_is_refused() {
        let near = ("host", "127.0.0.1:7100");
        for (origin, is_in) in [
            ("http://127.0.0.1:7100", true),
            ("http://127.0.0.1:8080", false),
            ("http://127.0.0.1", false),
            ("http://evil.example:7100", false),
            ("null", false),
            ("", false),
        ] {
            for means in [Means::Loopback, Means::Open] {
                let headers = [near, ("origin", origin)];
                assert_eq!(check(means, "/v1/volumes", &headers), is_in, "{origin}");
            }
        }
        assert!(!check(
            Means::Open,
            "/v1/volumes",
            &[("origin", "http://a.b")]
        ));
    }

    #[test]
    fn where_all_are_let_in_other_names_are_for_what_is_no_browser() {
        let named = ("host", "conductor.example:7100");
        assert!(check(Means::Open, "/v1/volumes", &[named]));
        for mark in [
            "origin",
            "referer",
            "accept-language",
            "cookie",
            "sec-fetch-site",
        ] {
            let marked = [named, (mark, "http://conductor.example:7100")];
            assert!(!check(Means::Open, "/v1/volumes", &marked), "{mark}");
        }
        let own = [("host", "meta.example:7100"), ("accept-language", "en")];
        assert!(check(Means::Open, "/v1/volumes", &own));
    }

    #[test]
    fn who_shows_something_may_go_by_any_name() {
        let headers = [
            ("host", "conductor.example"),
            ("origin", "http://console.example"),
        ];
        for means in [
            Means::Process,
            Means::Key("k".to_owned()),
            Means::Certificate,
        ] {
            assert!(check(means, "/v1/volumes", &headers));
        }
    }
}
