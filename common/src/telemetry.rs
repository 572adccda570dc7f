//! Logs on stderr, and spans to an OpenTelemetry collector when one is configured.
//!
//! `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns export on. The exporter's batches leave
//! from a thread of their own and never hold up a run.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flushes spans when the process ends. Keep it until after the drain.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts logging and, when configured, tracing. `service` names the process in traces; `level` is the
/// least severe level logged unless `RUST_LOG` says otherwise.
pub fn init(service: &'static str, level: tracing::Level, format: LogFormat) -> Telemetry {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let level = level.as_str().to_lowercase();
        EnvFilter::new(format!("warn,coordinator={level},worker={level},groundswell={level},groundswell_common={level},groundswell_worker={level}"))
    });
    let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match format {
        LogFormat::Text => stderr.with_target(false).boxed(),
        LogFormat::Json => stderr.json().boxed(),
    };
    // The exporter's HTTP client starts a runtime of its own, which may not happen on a thread of ours.
    let provider = std::thread::spawn(move || exporter(service)).join().ok().flatten();
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("groundswell"))
            .with_filter(EnvFilter::new("off,coordinator=trace,worker=trace,groundswell_common=trace,groundswell_coordinator=trace,groundswell_worker=trace"))
    });
    // A second call, in tests for example, leaves the first subscriber in place.
    let _ = tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init();
    Telemetry { provider }
}

fn exporter(service: &'static str) -> Option<SdkTracerProvider> {
    let endpoint = endpoint()?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()
        .ok()?;
    let resource = Resource::builder().with_service_name(service).build();
    Some(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

/// The full address of the collector's trace endpoint; a base address gets `/v1/traces` as the standard says.
fn endpoint() -> Option<String> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
        set("OTEL_EXPORTER_OTLP_ENDPOINT")
            .map(|base| format!("{}/v1/traces", base.trim_end_matches('/')))
    })
}

impl Telemetry {
    /// Sends what is left.
    pub fn shutdown(self) {
        let Some(provider) = self.provider else { return };
        let _ = std::thread::spawn(move || provider.shutdown()).join();
    }
}

/// The current span as W3C trace context: `traceparent` and `tracestate`. Empty without an exporter.
#[must_use]
pub fn current_context() -> BTreeMap<String, String> {
    context_of(&tracing::Span::current())
}

/// `span` as W3C trace context.
#[must_use]
pub fn context_of(span: &tracing::Span) -> BTreeMap<String, String> {
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Makes the span described by `context` the parent of `span`.
pub fn set_parent(span: &tracing::Span, context: &BTreeMap<String, String>) {
    if context.is_empty() {
        return;
    }
    let carrier: std::collections::HashMap<String, String> =
        context.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
    // Without an exporter there is no layer that could take a parent, which is fine.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}
