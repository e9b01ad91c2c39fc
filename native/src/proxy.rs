//! Which proxy an address is reached by, as curl reads it from the environment: `http_proxy`, `https_proxy`, `all_proxy`
//! and `no_proxy`, in small or in capital letters; an empty variable counts as none.

use foreword::{Error, Result};
use ipnet::IpNet;
use reqwest::Url;
use std::net::IpAddr;

/// The proxies of the environment.
pub(crate) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

impl Proxies {
    /// # Errors
    /// When a variable holds no address of a proxy.
    pub(crate) fn from_env() -> Result<Self> {
        let all = proxy("all_proxy")?;
        Ok(Proxies {
            http: proxy("http_proxy")?.or_else(|| all.clone()),
            https: proxy("https_proxy")?.or(all),
            direct: variable("no_proxy").map_or_else(Vec::new, |list| directs(&list)),
        })
    }

    /// The proxy to an address; none if it is reached directly.
    pub(crate) fn to(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.clone().filter(|_| !self.direct.iter().any(|direct| direct.is(url)))
    }
}

/// An environment variable that is not empty, in small letters first.
fn variable(name: &str) -> Option<String> {
    let value = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    value(name).or_else(|| value(&name.to_uppercase())).map(|v| v.to_string_lossy().trim().to_string())
}

fn proxy(name: &str) -> Result<Option<Url>> {
    let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = if text.contains("://") { text } else { format!("http://{text}") };
    let text = text.strip_prefix("socks://").map_or(text.clone(), |rest| format!("socks4://{rest}"));
    // The address may hold a password, which is not to be shown.
    let wrong = |why: &str| Error::invalid_request(format!("the variable {name} holds no address of a proxy: {why}"));
    let mut url = Url::parse(&text).map_err(|e| wrong(&e.to_string()))?;
    let is_socks = url.scheme().starts_with("socks");
    if !["http", "https", "socks4", "socks4a", "socks5", "socks5h"].contains(&url.scheme()) {
        return Err(wrong(&format!(
            "its protocol is {}, which may be http, https, socks4(a) or socks5(h)",
            url.scheme()
        )));
    }
    if url.host().is_none() {
        return Err(wrong("it names no host"));
    }
    if is_socks && url.port().is_none() {
        // It has a host, so it can have a port.
        let _ = url.set_port(Some(1080));
    }
    Ok(Some(url))
}

/// Hosts that are reached without a proxy.
#[derive(Debug, PartialEq)]
struct Direct {
    host: Host,
    /// Only at this port.
    port: Option<u16>,
}

#[derive(Debug, PartialEq)]
enum Host {
    Any,
    Net(IpNet),
    /// With all hosts below it.
    Name(String),
}

impl Direct {
    fn is(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let matches = match &self.host {
            Host::Any => true,
            Host::Net(net) => ip(host).is_some_and(|ip| net.contains(&ip)),
            Host::Name(name) => {
                let host = host.trim_end_matches('.');
                host.strip_suffix(name.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }
        };
        matches && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// The entries of `no_proxy`, by commas or spaces: `*`, names, addresses and nets, each with a port or without.
fn directs(list: &str) -> Vec<Direct> {
    list.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty()).map(direct).collect()
}

fn direct(entry: &str) -> Direct {
    let whole = |text: &str| {
        let net = text.parse::<IpNet>().ok().or_else(|| ip(text).map(IpNet::from));
        (text == "*").then_some(Host::Any).or(net.map(Host::Net))
    };
    if let Some(host) = whole(entry) {
        return Direct { host, port: None };
    }
    let with_port = entry.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (text, port) = with_port.map_or((entry, None), |(host, port)| (host, Some(port)));
    let name = || text.trim_start_matches("*.").trim_matches('.').to_lowercase();
    Direct { host: whole(text).unwrap_or_else(|| Host::Name(name())), port }
}

/// An address, that of IPv6 in brackets or not.
fn ip(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_proxy_names_is_reached_directly() {
        let is_direct = |list: &str, url: &str| {
            let url = Url::parse(url).expect("an address");
            directs(list).iter().any(|direct| direct.is(&url))
        };
        for (list, url, expected) in [
            ("*", "http://127.0.0.1:8080/m.gguf", true),
            ("*", "https://example.org/", true),
            ("example.org", "https://example.org/", true),
            ("example.org", "https://hub.EXAMPLE.org/", true),
            ("example.org.", "https://example.org./", true),
            (".example.org", "https://example.org/", true),
            ("*.example.org", "https://hub.example.org/", true),
            ("example.org", "https://notexample.org/", false),
            ("a.org b.org", "https://b.org/", true),
            (" a.org ,  b.org , ", "https://b.org/", true),
            (",,", "https://b.org/", false),
            ("a.org:8080", "http://a.org:8080/", true),
            ("a.org:8080", "http://a.org/", false),
            ("a.org:443", "https://a.org/", true),
            ("*:8080", "http://a.org:8080/", true),
            ("127.0.0.1:80", "http://127.0.0.1/", true),
            ("127.0.0.1:80", "http://127.0.0.1:81/", false),
            ("127.0.0.0/8", "http://127.9.9.9:81/", true),
            ("10.0.0.0/8", "http://127.0.0.1/", false),
            ("127.0.0.1", "http://localhost/", false),
            ("1.0.0.1", "http://11.0.0.1/", false),
            ("::1", "http://[::1]:80/", true),
            ("[::1]", "http://[::1]:80/", true),
            ("[::1]:81", "http://[::1]:80/", false),
            ("fe80::/10", "http://[fe80::7]/", true),
        ] {
            assert_eq!(is_direct(list, url), expected, "{list} {url}");
        }
    }
}
