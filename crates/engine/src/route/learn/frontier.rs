//! Which of many (cost, quality) pairs are worth having: the upper hull, and what is read off it.
//!
//! **Invariant:** along a hull cost and quality grow, and each further dollar buys less quality than the one before it.

/// What a policy costs and how good it is; `of` says which policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<T> {
    /// Dollars for one question.
    pub cost: f64,
    /// The share of right answers, 0 to 1.
    pub quality: f64,
    /// Whose point it is.
    pub of: T,
}

/// The upper hull from the cheapest point to the best one. Between two neighbours lies what a random mix of both reaches.
pub fn upper_hull<T>(mut points: Vec<Point<T>>) -> Vec<Point<T>> {
    points.retain(|it| it.cost.is_finite() && it.quality.is_finite());
    // Stable, so equal points keep the order they came in.
    points.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.quality.total_cmp(&a.quality)));
    let mut hull: Vec<Point<T>> = Vec::new();
    for point in points {
        if hull.last().is_some_and(|last| point.quality <= last.quality) {
            continue;
        }
        while let [.., before, last] = hull.as_slice() {
            let so_far = (last.quality - before.quality) * (point.cost - before.cost);
            let direct = (point.quality - before.quality) * (last.cost - before.cost);
            if so_far > direct {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

/// The point of `hull` that is best when a dollar is worth `lambda` of quality.
pub fn best_at<T>(hull: &[Point<T>], lambda: f64) -> Option<&Point<T>> {
    let steps = hull.windows(2);
    let taken = steps.take_while(|pair| match pair {
        [low, high] => high.quality - low.quality >= lambda * (high.cost - low.cost),
        _ => false,
    });
    hull.get(taken.count())
}

/// The least cost at which `hull` reaches `quality`; `None` when it never does.
pub fn cost_at<T>(hull: &[Point<T>], quality: f64) -> Option<f64> {
    let next = hull.iter().position(|it| it.quality >= quality)?;
    let Some(low) = next.checked_sub(1).and_then(|it| hull.get(it)) else { return hull.first().map(|it| it.cost) };
    let high = hull.get(next)?;
    let share = (quality - low.quality) / (high.quality - low.quality);
    Some(low.cost + share * (high.cost - low.cost))
}

/// The mean quality along `hull` for budgets between `from` and `to` dollars a question.
///
/// Below the cheapest point nothing can be asked, and the quality is 0; past the last one it stays what it is.
pub fn mean_quality<T>(hull: &[Point<T>], from: f64, to: f64) -> f64 {
    let at = |budget: f64| -> f64 {
        let next = hull.partition_point(|it| it.cost <= budget);
        match (next.checked_sub(1).and_then(|it| hull.get(it)), hull.get(next)) {
            (None, _) => 0.0,
            (Some(last), None) => last.quality,
            (Some(low), Some(high)) => {
                low.quality + (high.quality - low.quality) * (budget - low.cost) / (high.cost - low.cost)
            }
        }
    };
    if to <= from {
        return at(from);
    }
    // Exact: the hull is straight between its corners.
    let mut area = 0.0;
    let mut corners: Vec<f64> = hull.iter().map(|it| it.cost).filter(|cost| (from..to).contains(cost)).collect();
    corners.push(to);
    let mut left = from;
    for right in corners {
        // Just left of a corner the line before it holds; the cheapest point is the only jump.
        let end = if hull.first().is_some_and(|it| right <= it.cost) { 0.0 } else { at(right) };
        area += f64::midpoint(at(left), end) * (right - left);
        left = right;
    }
    area / (to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(cost: f64, quality: f64) -> Point<()> {
        Point { cost, quality, of: () }
    }

    fn pairs(hull: &[Point<()>]) -> Vec<(f64, f64)> {
        hull.iter().map(|it| (it.cost, it.quality)).collect()
    }

    #[test]
    fn only_what_is_worth_its_cost_stays() {
        let hull = upper_hull(vec![
            point(3.0, 0.9),
            point(1.0, 0.5),
            point(2.0, 0.6),
            point(2.0, 0.8),
            point(4.0, 0.9),
            point(1.0, 0.4),
            point(f64::NAN, 1.0),
        ]);
        assert_eq!(pairs(&hull), [(1.0, 0.5), (2.0, 0.8), (3.0, 0.9)]);
        assert!(upper_hull(Vec::<Point<()>>::new()).is_empty());
    }

    #[test]
    fn a_dearer_dollar_moves_down_the_hull() {
        let hull = upper_hull(vec![point(1.0, 0.5), point(2.0, 0.8), point(3.0, 0.9)]);
        let at = |lambda| best_at(&hull, lambda).unwrap().cost;
        assert_eq!((at(0.0), at(0.09), at(0.11), at(1.0)), (3.0, 3.0, 2.0, 1.0));
        assert_eq!(best_at::<()>(&[], 0.0), None);
    }

    #[test]
    fn quality_is_read_off_between_the_corners() {
        let hull = upper_hull(vec![point(1.0, 0.5), point(3.0, 0.9)]);
        assert_eq!(cost_at(&hull, 0.4), Some(1.0));
        assert!((cost_at(&hull, 0.7).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(cost_at(&hull, 0.91), None);
        assert!((mean_quality(&hull, 1.0, 3.0) - 0.7).abs() < 1e-12);
        assert!((mean_quality(&hull, 1.0, 5.0) - 0.8).abs() < 1e-12);
        // Half of the budgets can not ask anybody.
        assert!((mean_quality(&hull, 0.0, 2.0) - 0.3).abs() < 1e-12);
        assert!((mean_quality(&hull, 2.0, 2.0) - 0.7).abs() < 1e-12);
    }
}
