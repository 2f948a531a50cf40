"""Topics from private life: a recipe, a story, a garden diary, a postcard."""

from __future__ import annotations

from wording import DAY, PERSON, TOWN, maybe, option, pick, seq, switch

__all__ = ["GARDEN", "POSTCARD", "RECIPE", "STORY"]

RECIPE = seq(
    pick("A simple recipe for ", "How to make "),
    pick(
        option("leek soup", 2, food="soup", main="leeks"), option("carrot soup", 2, food="soup", main="carrots"),
        option("pumpkin soup", food="soup", main="pumpkin"), option("apple cake", 2, food="cake", main="apples"),
        option("plum cake", food="cake", main="plums"), option("bean salad", food="salad", main="beans"),
        option("potato salad", 2, food="salad", main="potatoes"),
    ),
    ". ", pick("Wash and chop ", "Take "), pick("some", "half a kilo of", "plenty of"), " {main}. ",
    switch(
        "food",
        soup=seq(
            "Fry the {main} in ", pick("butter", "oil"), ", add ", pick("water", "milk"), " and ",
            pick("salt", "pepper", "garlic", "ginger"), ", and let the soup simmer for ",
            pick("twenty", "thirty", "forty"),
        ),
        cake=seq(
            "Stir flour, ", pick("sugar", "honey", "nuts"), " and ", pick("two", "three", "four"),
            " eggs into a dough, lay the {main} on top, and bake the cake for ", pick("thirty", "forty", "fifty"),
        ),
        salad=seq(
            "Boil the {main}, add ", pick("onions", "herbs", "mustard", "radishes"), " and ",
            pick("vinegar", "lemon juice"), ", and let the salad rest for ", pick("ten", "fifteen", "twenty"),
        ),
    ),
    " minutes. Serve the {food} ",
    switch(
        "food", soup=pick(option("hot", 2), "with bread"), cake=pick("warm", "with cream", "with tea"),
        salad=pick("cold", "with bread"),
    ),
    ".", maybe(pick(" It is enough for four people.", " It tastes even better the next day."), 0.7),
)  # fmt: skip

STORY = seq(
    pick("Once there was ", "Long ago there lived "),
    pick("a small ", "a clever ", "a shy ", "an old ", "a hungry ", "a cheerful ", "a young "),
    pick(
        option("fox", 2, kind="fox", home="under a hill", treat="berries"),
        option("owl", 2, kind="owl", home="in a hollow oak", treat="moths"),
        option("otter", kind="otter", home="by the river", treat="fish"),
        option("hare", kind="hare", home="in a field of clover", treat="carrots"),
        option("mouse", 2, kind="mouse", home="behind the mill", treat="cheese"),
        option("bear", kind="bear", home="in a cave", treat="honey"),
    ),
    " called ", PERSON, ". {She} had {own} home {home} and loved {treat}. ",
    pick("One evening", "One winter", option("One morning", 2)), ", {name} ",
    pick(
        option("found a golden key", 2, event="key"), option("got lost in the fog", event="fog"),
        option("heard a strange song", event="song"),
    ),
    ". ",
    switch(
        "event",
        key=seq("It opened ", pick("a box", "a tiny door", "a chest", "a barrel"), " full of {treat}, and "),
        fog=seq("A kind ", pick("goose", "hedgehog", "shepherd", "firefly"), " showed {her} the way home, and "),
        song=seq("It came from ", pick("the moon", "a well", "an empty boat", "a willow"), ", and "),
    ),
    pick(
        "the {kind} never told anyone", "{name} slept well that night",
        option("{she} shared {own} {treat} with all {own} friends", 2),
    ),
    ".", maybe(pick(" That is the story of {name} the {kind}.", " And {she} still lives {home}."), 2),
)  # fmt: skip

GARDEN = seq(
    "Garden diary, ", DAY, ". The ",
    pick(
        option("tomatoes", 2, crop="tomatoes", are="are", have="have", them="them", They="They"),
        option("roses", 2, crop="roses", are="are", have="have", them="them", They="They"),
        option("peas", crop="peas", are="are", have="have", them="them", They="They"),
        option("lavender", crop="lavender", are="is", have="has", them="it", They="It"),
        option("old pear tree", 2, crop="pear tree", are="is", have="has", them="it", They="It"),
    ),
    pick(
        option(" {are} doing well", 2, state="well"), option(" {have} grown a lot", state="well"),
        option(" {are} too dry", 2, state="dry"), option(" {are} full of greenfly", state="bugs"),
    ),
    " this ", pick("week", "month"), ". I ",
    switch(
        "state", well=pick("tied {them} to a stick", "took a picture of {them}"),
        dry=pick("watered {them} twice", "gave {them} a whole can of water"),
        bugs=pick("washed {them} with soap", "sprayed {them} with nettle tea"),
    ),
    pick(" before breakfast. ", " after lunch. ", " at sunset. "),
    pick(
        seq("A ", pick("robin", "blackbird", "toad", "hedgehog", "snail", "squirrel"), " kept me company. "),
        seq(PERSON, " came by and {she} gave me some ", pick("seeds", "compost", "advice", "string"), ". "),
    ),
    pick("{They} will need me again ", "I will look at the {crop} again "), pick("tomorrow", "next {day}"), ".",
)  # fmt: skip

POSTCARD = seq(
    "Dear ", PERSON, ", greetings from ", TOWN, "! ",
    pick("We arrived on ", "We have been here since "), DAY, " and ",
    pick("the hotel is lovely", "our tent is dry", "the food is good", "the beds are soft"), ". ",
    pick(
        option("The sea is warm, so we swim every day. ", 2, place="sea"),
        option("The mountains are high, so our legs are tired. ", place="hills"),
        option("The old town is pretty, so we walk for hours. ", place="old"),
    ),
    "Yesterday we ",
    switch(
        "place", sea=pick("saw a seal", "sailed to an island", "built a sand castle"),
        hills=pick("climbed to a lake", "met a herd of goats", "slept in a hut"),
        old=pick("went to a museum", "heard a concert", "climbed the clock tower"),
    ),
    pick(" and thought of you. ", " and took many pictures. "),
    pick("See you soon, {name}! ", "We will be back from {town} in a week. "),
    pick("Love", "Yours"), ", ", pick("Grandma", "Uncle Jack", "Lily and Max", "the twins"), ".",
)  # fmt: skip
