use super::chart::{Chart, Series, escape};

#[test]
fn text_of_a_model_cannot_become_markup() {
    assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
}

#[test]
fn charts_place_points_inside_and_draw_single_ones() {
    assert!(Chart::new("Empty", vec![Series::new("a", vec![])]).svg().is_none());
    let one = Chart::new("One", vec![Series::new("a", vec![(3.0, 2.0)])])
        .svg()
        .unwrap();
    assert!(one.contains("<circle") && !one.contains("NaN"), "{one}");
    let line = Chart::new("Line", vec![Series::new("a", vec![(0.0, 1.0), (10.0, 3.0)])])
        .svg()
        .unwrap();
    assert!(line.contains("points=\"52.0,192.0 462.0,12.0\""), "{line}");
    let amounts = Chart::single("Amounts", vec![(0.0, 1.0), (10.0, 2.0)])
        .anchored()
        .svg()
        .unwrap();
    assert!(amounts.contains("points=\"52.0,102.0 462.0,12.0\""), "{amounts}");
}
