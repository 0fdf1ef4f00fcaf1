//! Short forms for writing metrics whose values are computed at the scrape.

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::fmt::Error;

/// One metric's name, without prefix, unit and suffix, and what it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described<'a> {
    pub(crate) name: &'a str,
    pub(crate) help: &'a str,
    pub(crate) unit: Option<&'a Unit>,
}

pub(crate) const fn described<'a>(name: &'a str, help: &'a str) -> Described<'a> {
    Described { name, help, unit: None }
}

impl<'a> Described<'a> {
    pub(crate) const fn in_unit(self, unit: &'a Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }
}

/// Names and values of labels; without any, the series has no braces.
type Labels<'a> = [(&'a str, &'a str)];

/// Writes one series with these labels.
fn series(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if labels.is_empty() {
        return write(family);
    }
    write(&mut family.encode_family(&labels)?)
}

/// Writes a counter's series. Its unit, if any, is part of its name.
pub(crate) fn counter<'a, L: AsRef<Labels<'a>>>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: Described<'_>,
    values: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), Error> {
    let Described { name, help, unit } = metric;
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (labels, value) in values {
        series(&mut family, labels.as_ref(), |one| one.encode_counter::<NoLabelSet, _, f64>(&value, None))?;
    }
    Ok(())
}

/// Writes a counter of seconds.
pub(crate) fn counter_of_seconds<'a, L: AsRef<Labels<'a>>>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: Described<'_>,
    values: impl IntoIterator<Item = (L, f64)>,
) -> Result<(), Error> {
    let Described { name, help, .. } = metric;
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
    for (labels, value) in values {
        series(&mut family, labels.as_ref(), |one| one.encode_counter::<NoLabelSet, _, f64>(&value, None))?;
    }
    Ok(())
}

/// Writes a gauge's series.
pub(crate) fn gauge<'a, L: AsRef<Labels<'a>>>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: Described<'_>,
    values: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), Error> {
    let Described { name, help, unit } = metric;
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        series(&mut family, labels.as_ref(), |one| one.encode_gauge(&value))?;
    }
    Ok(())
}

/// Observations by bucket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Upper bounds with the observations in between, not cumulated; the last bound is infinite.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) sum: f64,
}

impl Observed {
    /// `counts` has one more item than `bounds`: what is above all of them.
    pub(crate) fn new(bounds: impl Iterator<Item = f64>, counts: &[u64], sum: f64) -> Self {
        let bounds = bounds.chain([f64::INFINITY]);
        Self { buckets: bounds.zip(counts.iter().copied()).collect(), sum }
    }
}

/// Writes a histogram of seconds.
pub(crate) fn histogram<'a, L: AsRef<Labels<'a>>>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: Described<'_>,
    values: impl IntoIterator<Item = (L, Observed)>,
) -> Result<(), Error> {
    histogram_of(encoder, metric.in_unit(&Unit::Seconds), values)
}

/// Writes a histogram of whatever its unit or name says.
pub(crate) fn histogram_of<'a, L: AsRef<Labels<'a>>>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: Described<'_>,
    values: impl IntoIterator<Item = (L, Observed)>,
) -> Result<(), Error> {
    let Described { name, help, unit } = metric;
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    for (labels, Observed { buckets, sum }) in values {
        let count = buckets.iter().map(|(_, count)| count).sum();
        series(&mut family, labels.as_ref(), |one| {
            one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })?;
    }
    Ok(())
}
