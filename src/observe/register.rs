//! From a line of the table to a handle on its series.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::table::{Kind, Spec};

static METADATA: Metadata<'static> = Metadata::new("offramp", Level::INFO, None);

/// Registers what the table describes.
pub(super) struct Register<'a>(pub(super) &'a PrometheusRecorder);

impl Register<'_> {
    pub(super) fn describe(&self, spec: &Spec) {
        let (name, help) = (KeyName::from_const_str(spec.name), spec.help.into());
        match spec.kind {
            Kind::Counter => self.0.describe_counter(name, None, help),
            Kind::Gauge => self.0.describe_gauge(name, None, help),
            Kind::Histogram => self.0.describe_histogram(name, None, help),
        }
    }

    fn key(spec: &Spec, values: &[&str]) -> Key {
        let labels = spec.labels.iter().zip(values).map(|(&label, &value)| Label::new(label, value.to_owned()));
        Key::from_parts(spec.name, labels.collect::<Vec<_>>())
    }

    pub(super) fn counter_with(&self, spec: &Spec, values: &[&str]) -> Counter {
        self.0.register_counter(&Self::key(spec, values), &METADATA)
    }

    pub(super) fn gauge_with(&self, spec: &Spec, values: &[&str]) -> Gauge {
        self.0.register_gauge(&Self::key(spec, values), &METADATA)
    }

    pub(super) fn histogram_with(&self, spec: &Spec, values: &[&str]) -> Histogram {
        self.0.register_histogram(&Self::key(spec, values), &METADATA)
    }

    pub(super) fn counter(&self, spec: &Spec) -> Counter {
        self.counter_with(spec, &[])
    }

    pub(super) fn gauge(&self, spec: &Spec) -> Gauge {
        self.gauge_with(spec, &[])
    }

    pub(super) fn histogram(&self, spec: &Spec) -> Histogram {
        self.histogram_with(spec, &[])
    }

    pub(super) fn counters<'v>(&self, spec: &Spec, values: impl Iterator<Item = &'v str>) -> Vec<Counter> {
        values.map(|value| self.counter_with(spec, &[value])).collect()
    }

    pub(super) fn gauges<'v>(&self, spec: &Spec, values: impl Iterator<Item = &'v str>) -> Vec<Gauge> {
        values.map(|value| self.gauge_with(spec, &[value])).collect()
    }
}
