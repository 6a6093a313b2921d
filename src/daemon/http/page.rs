//! `GET /`: a page that shows the election as it happens. It reads `/events`.

use axum::{
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY},
    response::{IntoResponse, Response},
};

/// The page. It needs nothing else.
const PAGE: &str = include_str!("page.html");

/// Allows the page its own style and script, by their hashes, and its own server; nobody may show it in a frame.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-uwUPxeAGIw64d0n29Br5cfN0OYLudg7XC3Lnh/uv5IY='; \
    style-src 'sha256-BTk+i5zljamj7xAmgjhN5sXhwOmMCh868YXqG9qr7eA='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Responds with the page.
pub(super) fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::{PAGE, POLICY};
    use base64::prelude::{BASE64_STANDARD, Engine};
    use ring::digest::{SHA256, digest};

    /// Returns the text within the only element of this name.
    fn only_element(name: &str) -> &'static str {
        let (start, end) = (format!("<{name}>"), format!("</{name}>"));
        let (_, rest) = PAGE.split_once(&start).expect("such an element");
        let (text, rest) = rest.split_once(&end).expect("its end");
        assert!(!rest.contains(&start), "there is one");
        text
    }

    #[test]
    fn the_policy_allows_the_style_and_the_script_of_the_page() {
        for (name, directive) in [("script", "script-src"), ("style", "style-src")] {
            let hash = digest(&SHA256, only_element(name).as_bytes());
            let hash = BASE64_STANDARD.encode(hash);
            let expected = format!("{directive} 'sha256-{hash}';");
            assert!(POLICY.contains(&expected), "it must contain {expected:?}");
        }
    }
}
