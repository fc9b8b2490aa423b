//! The vocabulary of the little world: closed lists for words, syllables for the names of people and towns.

pub const NOUNS: &[&str] = &[
    "key", "lamp", "coin", "book", "cup", "box", "bell", "rope", "knife", "map", "drum", "clock", "chair", "basket",
    "bottle", "brush", "candle", "carpet", "chest", "comb", "flute", "glove", "hammer", "hat", "jar", "kettle",
    "ladder", "letter", "mirror", "needle", "oar", "pan", "pen", "pillow", "plate", "purse", "ring", "saddle", "scarf",
    "shoe", "shovel", "spoon", "stool", "sword", "table", "toy", "umbrella", "vase", "violin", "wheel", "whistle",
    "axe",
];

pub const ADJECTIVES: &[&str] = &[
    "red", "blue", "green", "yellow", "white", "black", "brown", "grey", "small", "large", "old", "new", "long",
    "round", "heavy", "thin", "broken", "shiny", "dusty", "pretty",
];

pub const PLACES: &[&str] = &[
    "under the bed",
    "in the kitchen",
    "on the roof",
    "behind the door",
    "near the well",
    "in the garden",
    "by the river",
    "under the bridge",
    "in the cellar",
    "on the shelf",
    "beside the stove",
    "at the market",
    "in the barn",
    "on the wall",
    "under the stairs",
    "in the tower",
    "behind the mill",
    "at the harbour",
    "in the forest",
    "on the table",
    "near the gate",
    "in the attic",
    "beside the path",
    "in the school",
    "behind the curtain",
    "on the boat",
    "at the inn",
    "in the cave",
    "under the tree",
    "by the fire",
    "in the workshop",
    "on the hill",
];

pub const MATERIALS: &[&str] = &[
    "tin", "wood", "glass", "silver", "iron", "clay", "leather", "wool", "stone", "copper", "paper", "bone", "straw",
    "gold", "wax", "silk",
];

pub const JOBS: &[&str] = &[
    "baker",
    "tailor",
    "farmer",
    "doctor",
    "teacher",
    "sailor",
    "painter",
    "miller",
    "hunter",
    "singer",
    "smith",
    "potter",
    "gardener",
    "weaver",
    "guard",
    "driver",
    "cook",
    "mason",
    "judge",
    "shepherd",
    "printer",
    "dancer",
    "fisher",
    "carpenter",
];

pub const FOODS: &[&str] = &[
    "plum cake",
    "onion soup",
    "fresh bread",
    "goat cheese",
    "apple pie",
    "fried fish",
    "honey",
    "roasted nuts",
    "pea stew",
    "pancakes",
    "cherries",
    "cold milk",
    "mint tea",
    "pickled eggs",
    "potatoes",
    "rice pudding",
    "grapes",
    "hot cider",
    "mushrooms",
    "ginger biscuits",
];

pub const OPENINGS: &[&str] = &[
    "It was raining.",
    "The sun was warm.",
    "Snow fell all day.",
    "The wind was strong.",
    "The night was quiet.",
    "Listen.",
    "Here is what we know.",
    "This is an old story.",
];

/// Names are made of syllables, and the tokenizer takes them apart again: a model that has to spell a name from the text
/// before it learns to copy early, and can then copy a name it has never seen.
pub const ONSETS: &[&str] = &[
    "B", "Br", "D", "Dr", "F", "G", "Gr", "H", "J", "K", "L", "M", "N", "P", "R", "S", "St", "T", "Tr", "V", "W", "Z",
];

pub const MIDDLES: &[&str] = &[
    "a", "e", "i", "o", "u", "ai", "ea", "or", "an", "el", "il", "un", "ar", "en", "is", "ol",
];

pub const ENDINGS: &[&str] = &[
    "ra", "lo", "na", "to", "mi", "da", "vin", "ric", "sa", "ka", "bel", "dor", "lia", "mo", "ren", "ta", "wen", "nis",
    "go", "zu",
];

pub const TOWN_ENDINGS: &[&str] = &[
    "ford", "mere", "ton", "wick", "dale", "by", "stead", "field", "burg", "haven", "moor", "well",
];
