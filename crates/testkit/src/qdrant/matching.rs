//! Whether a point fits a filter.

use qdrant_client::qdrant::{
    Condition, FieldCondition, Filter, PointId, PointStruct, condition::ConditionOneOf, r#match::MatchValue,
    point_id::PointIdOptions, value::Kind,
};

/// The id as a text.
pub(super) fn key(id: Option<&PointId>) -> String {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        Some(PointIdOptions::Uuid(uuid)) => uuid.clone(),
        Some(PointIdOptions::Num(number)) => number.to_string(),
        None => String::new(),
    }
}

/// All of `must` hold and none of `must_not`; what the server does not know admits nothing.
pub(super) fn admits(filter: &Filter, point: &PointStruct) -> bool {
    filter.should.is_empty()
        && filter.min_should.is_none()
        && filter.must.iter().all(|condition| holds(condition, point))
        && !filter.must_not.iter().any(|condition| holds(condition, point))
}

fn holds(condition: &Condition, point: &PointStruct) -> bool {
    match &condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => field_holds(field, point),
        Some(ConditionOneOf::HasId(ids)) => ids.has_id.iter().any(|id| key(Some(id)) == key(point.id.as_ref())),
        _ => false,
    }
}

fn field_holds(field: &FieldCondition, point: &PointStruct) -> bool {
    let Some(value) = point.payload.get(&field.key).and_then(|value| value.kind.as_ref()) else { return false };
    if let Some(range) = &field.range {
        let number = match value {
            Kind::IntegerValue(number) => *number as f64,
            Kind::DoubleValue(number) => *number,
            _ => return false,
        };
        return range.gte.is_none_or(|least| number >= least)
            && range.gt.is_none_or(|least| number > least)
            && range.lte.is_none_or(|most| number <= most)
            && range.lt.is_none_or(|most| number < most);
    }
    let Kind::StringValue(text) = value else { return false };
    match field.r#match.as_ref().and_then(|it| it.match_value.as_ref()) {
        Some(MatchValue::Keyword(word)) => word == text,
        Some(MatchValue::Keywords(words)) => words.strings.contains(text),
        _ => false,
    }
}
