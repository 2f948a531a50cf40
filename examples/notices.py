"""Topics that tell the public something: the weather, a train, a market stall, a lost thing."""

from __future__ import annotations

from wording import DAY, PERSON, TOWN, maybe, option, pick, seq, switch

__all__ = ["LOST", "MARKET", "TRAIN", "WEATHER"]

WEATHER = seq(
    pick("The weather in ", option("Weather report for ", 2)), TOWN, ", ", DAY, ": ",
    pick(
        option("the morning brings steady rain", 3, sky="rain"), option("it will be sunny all day", 3, sky="sun"),
        option("expect a strong wind", 2, sky="wind"), option("fresh snow is on its way", sky="snow"),
    ),
    switch(
        "sky", rain=maybe(" and a little fog"), sun=maybe(" with hardly a cloud"), snow=maybe(" from the mountains"),
        wind=pick(" from the north", " from the west", option(" from the sea", 2)),
    ),
    ". The high will be near ",
    switch(
        "sky", rain=pick("nine", "twelve", "fourteen"), sun=pick("twenty", "twenty-four", "thirty"),
        wind=pick("eight", "eleven", "fifteen"), snow=pick("zero", "one", "two"),
    ),
    " degrees. ",
    switch(
        "sky", rain=pick("Take an umbrella", "Wear good boots", "Roads may flood"),
        sun=pick("Wear a hat", "Drink plenty of water", "Go for a swim"),
        wind=pick("Keep your windows shut", "Hold on to your hat", "Small boats should stay in port"),
        snow=pick("Drive slowly", "Bring in some firewood", "Feed the birds"),
    ),
    ". ", pick("Tonight stays ", "The night will be "),
    switch("sky", rain=pick("wet", "damp"), sun=pick("warm", "clear"), wind=pick("rough", "wild"), snow="icy"),
    " in {town}.",
    maybe(" Enjoy your {day}.", 0.5),
)  # fmt: skip

TRAIN = seq(
    pick("Attention please: the ", option("The ", 2)),
    pick("six", "eight", "nine", "ten"), pick(" fifteen", " thirty", " forty-five"),
    pick(option(" train to ", 2, train="train"), option(" express to ", train="express")), TOWN, " ",
    pick(
        option("is running ", 3, state="late"), option("will leave from platform ", 3, state="moved"),
        option("has been cancelled because of ", state="off"),
    ),
    switch(
        "state",
        late=seq(pick("five", "ten", "twenty"), " minutes late because of "),
        moved=seq(pick("one", "two", "three", "four"), " today. The reason is "), off="",
    ),
    pick(
        "a broken signal", option("snow on the line", 2), "a fallen tree", "a herd of cows",
        option("repairs to the track", 2),
    ),
    ". ",
    switch(
        "state",
        late=pick("Please wait on the platform.", "Tea is served in the waiting room."),
        moved=pick("Please use the bridge.", "Please follow the signs."),
        off=seq("Buses to {town} leave from the ", pick("main gate", "car park"), "."),
    ),
    maybe(pick(" We are sorry for the delay.", " We wish all passengers to {town} a pleasant journey.")),
)  # fmt: skip

MARKET = seq(
    "At the market in ", TOWN, ", ", PERSON, " sells ",
    pick(
        option("bread", 2, ware="bread", unit="loaf", units="loaves"),
        option("honey", 2, ware="honey", unit="jar", units="jars"),
        option("flowers", ware="flowers", unit="bunch", units="bunches"),
        option("cheese", ware="cheese", unit="wheel", units="wheels"),
    ),
    " every ", DAY, ". One {unit} costs ",
    pick(
        option("two coins", two="four", three="six"), option("three coins", two="six", three="nine"),
        option("four coins", two="eight", three="twelve"), option("five coins", two="ten", three="fifteen"),
    ),
    ", so ", pick("two {units} cost {two} coins", "three {units} cost {three} coins"), ". ",
    pick("{She} always keeps one {unit} for {own} ", "{name} likes to give one {unit} to {own} "),
    pick("neighbour", "brother", "teacher", "doctor"), ". ",
    pick("By noon ", "By four o'clock "),
    pick("most of {own} {units} are gone.", "{she} has sold all {own} {units}."),
)  # fmt: skip

LOST = seq(
    pick("Lost on ", "Missing since "), DAY, ": a ",
    pick(*(option(colour, colour=colour) for colour in ("red ", "blue ", "green ", "yellow ", "purple "))),
    pick(
        option("scarf", 2, thing="scarf"), option("bicycle", 2, thing="bicycle"),
        option("suitcase", thing="suitcase"), option("kite", thing="kite"), option("teapot", 2, thing="teapot"),
    ),
    " with ", pick("white", "black", "silver"),
    switch("thing", scarf=" dots", bicycle=" wheels", suitcase=" handles", kite=" ribbons", teapot=" stars"), ". ",
    pick("I last saw it ", "I think I left it "),
    pick("near the school", "at the station", "in the park", "by the fountain"), " in ", TOWN, ". ",
    pick("The {colour}{thing} ", "It "), pick("was a gift from my ", "belongs to my "),
    pick("neighbour", "cousin", "friend"), " ", PERSON, ", and {she} ",
    pick("misses it very much", "asks about it every day"), ". If you find the {thing}, please ",
    pick("call me", "bring it to the baker", "write to {name}"), ".",
)  # fmt: skip
