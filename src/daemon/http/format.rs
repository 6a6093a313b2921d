//! The formats of the metrics, and the choice between them by a request's `Accept` header.

use axum::http::{HeaderMap, header::ACCEPT};
use prometheus_client::encoding::prometheus_text;

/// A format of the metrics. Both have the same series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus's text format, which every collector and `promtool check metrics` read.
    Text,
    /// [OpenMetrics](https://openmetrics.io), which only clients that name it are sure to read.
    OpenMetrics,
}

impl Format {
    /// Returns the format that a client with these headers prefers: text, unless it names
    /// [`Self::OpenMetrics`] and gives it no lower quality than text.
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let ranges: Vec<_> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(MediaRange::parse)
            .collect();
        let quality = |name: &str, version: &str| {
            let accepting = ranges.iter().filter(|range| range.accepts(name, version));
            accepting.map(|range| range.quality).reduce(f32::max)
        };
        let open_metrics = quality("application/openmetrics-text", "1.0.0").unwrap_or_default();
        let text = quality("text/plain", "0.0.4")
            .or_else(|| quality("text/*", ""))
            .or_else(|| quality("*/*", ""))
            .unwrap_or_default();
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Returns the value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One element of an `Accept` header.
struct MediaRange<'a> {
    name: &'a str,
    version: Option<&'a str>,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    /// A quality that is no number counts as 0: not acceptable.
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let (mut version, mut quality) = (None, 1.0);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            if key.eq_ignore_ascii_case("version") {
                version = Some(value.trim_matches('"'));
            } else if key.eq_ignore_ascii_case("q") {
                quality = value.parse().unwrap_or_default();
            }
        }
        Self {
            name,
            version,
            quality,
        }
    }

    fn accepts(&self, name: &str, version: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) && self.version.is_none_or(|it| it == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn negotiated(values: &[&'static str]) -> Format {
        let value = |value: &&'static str| (ACCEPT, HeaderValue::from_static(value));
        Format::negotiate(&values.iter().map(value).collect())
    }

    #[test]
    fn only_a_client_that_names_open_metrics_and_prefers_it_gets_it() {
        for accept in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/*"],
            &["text/plain"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            // Telegraf.
            &[
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3",
            ],
            // Other versions of OpenMetrics.
            &["application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0.000, */*"],
            &["application/openmetrics-text;q=nonsense"],
            &["application/openmetrics-text;q=NaN"],
            &["application/openmetrics-text;q=0.2,text/plain;q=0.3"],
            &["application/openmetrics-text;q=0.2,text/*;q=0.3,*/*;q=0.1"],
            &["application/openmetrics-text;q=0.2,*/*;q=0.3"],
            &["application/openmetrics-text;q=0.2", "text/plain;q=0.3"],
            &["application/openmetrics-textual", ";;==,,;q=;"],
        ] {
            assert_eq!(negotiated(accept), Format::Text, "{accept:?}");
        }
        for accept in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text;version=1.0.0"],
            &["Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.1"],
            &["application/openmetrics-text, text/plain"],
            &["application/openmetrics-text, */*"],
            &["text/plain;q=0.1", "application/openmetrics-text;q=0.2"],
            // The quality of the most specific range counts.
            &["application/openmetrics-text;q=0.5,text/plain;q=0.1,*/*"],
            // Prometheus 2.42 and 3.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ],
        ] {
            assert_eq!(negotiated(accept), Format::OpenMetrics, "{accept:?}");
        }
    }
}
