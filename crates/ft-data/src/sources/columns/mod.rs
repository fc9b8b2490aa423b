//! Rows of Arrow's columns as records: what Parquet and Arrow files hold, as JSON would say it.

mod arrow;
mod parquet;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Map, Number, Value};

use super::MAX_RECORD;
use crate::error::Flaw;
use crate::map::Fields;

pub(super) use arrow::read as arrow;
pub(super) use parquet::read as parquet;

/// A row by column. Columns whose values are no text, number, list or object (pictures, durations) are left out, so that a format
/// that asks for one is told that it is not there.
fn record(batch: &RecordBatch, row: usize) -> Result<Fields, Flaw> {
    let schema = batch.schema_ref();
    let columns = schema.fields().iter().zip(batch.columns());
    let fields: Fields = columns
        .filter_map(|(field, column)| Some((field.name().clone(), value(column, row)?)))
        .collect();
    match fields.values().map(size).sum::<usize>() {
        size if size > MAX_RECORD => Err(Flaw::TooLarge(MAX_RECORD >> 20)),
        _ => Ok(fields),
    }
}

/// What `act` says, or that it panicked: the crates that decode these files do so on some damaged ones.
fn contained<T, E: Display>(act: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(_) => Err("its parts contradict each other".into()),
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 8,
    }
}

fn value(array: &dyn Array, row: usize) -> Option<Value> {
    if array.is_null(row) {
        return Some(Value::Null);
    }
    Some(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => number::<Int8Type>(array, row),
        DataType::Int16 => number::<Int16Type>(array, row),
        DataType::Int32 => number::<Int32Type>(array, row),
        DataType::Int64 => number::<Int64Type>(array, row),
        DataType::UInt8 => number::<UInt8Type>(array, row),
        DataType::UInt16 => number::<UInt16Type>(array, row),
        DataType::UInt32 => number::<UInt32Type>(array, row),
        DataType::UInt64 => number::<UInt64Type>(array, row),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).to_f64()),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary => text(array.as_binary::<i32>().value(row))?,
        DataType::LargeBinary => text(array.as_binary::<i64>().value(row))?,
        DataType::BinaryView => text(array.as_binary_view().value(row))?,
        DataType::List(_) => list(&array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row))?,
        DataType::ListView(_) => list(&array.as_list_view::<i32>().value(row))?,
        DataType::LargeListView(_) => list(&array.as_list_view::<i64>().value(row))?,
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let fields = columns.filter_map(|(field, column)| Some((field.name().clone(), value(column, row)?)));
            Value::Object(fields.collect())
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let pair = |at| Some((plain(&value(keys, at)?), value(values, at)?));
            Value::Object((0..entries.len()).map(pair).collect::<Option<Map<_, _>>>()?)
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = value(dictionary.keys(), row)?.as_u64()?;
            let values = dictionary.values();
            let key = usize::try_from(key).ok().filter(|key| *key < values.len())?;
            value(values, key)?
        }
        other => moment(other, array, row)?.into(),
    })
}

fn number<T: ArrowPrimitiveType<Native: Into<Number>>>(array: &dyn Array, row: usize) -> Value {
    Value::Number(array.as_primitive::<T>().value(row).into())
}

/// JSON knows no infinity and no NaN.
fn float(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(Value::from)
}

fn list(items: &dyn Array) -> Option<Value> {
    let items = (0..items.len()).map(|at| value(items, at));
    items.collect::<Option<Vec<Value>>>().map(Value::Array)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Dates, times and decimal fractions as ISO 8601 and people write them.
fn moment(kind: &DataType, array: &dyn Array, row: usize) -> Option<String> {
    macro_rules! show {
        ($kind:ty, $read:ident) => {
            array.as_primitive::<$kind>().$read(row)?.to_string()
        };
    }
    macro_rules! instant {
        ($kind:ty) => {
            array
                .as_primitive::<$kind>()
                .value_as_datetime(row)?
                .format("%Y-%m-%dT%H:%M:%S%.f")
                .to_string()
        };
    }
    Some(match kind {
        DataType::Date32 => show!(Date32Type, value_as_date),
        DataType::Date64 => show!(Date64Type, value_as_date),
        DataType::Time32(TimeUnit::Second) => show!(Time32SecondType, value_as_time),
        DataType::Time32(TimeUnit::Millisecond) => show!(Time32MillisecondType, value_as_time),
        DataType::Time64(TimeUnit::Microsecond) => show!(Time64MicrosecondType, value_as_time),
        DataType::Time64(TimeUnit::Nanosecond) => show!(Time64NanosecondType, value_as_time),
        DataType::Timestamp(TimeUnit::Second, _) => instant!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => instant!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => instant!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => instant!(TimestampNanosecondType),
        DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(row),
        DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(row),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        _ => return None,
    })
}
