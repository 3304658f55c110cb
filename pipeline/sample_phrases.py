"""The words that the sample's exam passages are made of.

A fact is a sentence of a passage that one question can be asked about. Its topic lists the words
that may fill its blank, all of the same kind, so that each option of a question is as likely as the
others until the passage has been read. Every blank takes every word of its topic ("a {x}" only
where no word starts with a vowel), and no word of a topic stands anywhere else in these tables, so
that it comes into a passage only as an answer.
"""

from typing import NamedTuple


class Fact(NamedTuple):
    """One kind of sentence and the two ways to ask about it.

    `statement`, `question` and `cloze` may hold {name}, {he} and {his}; `statement` holds {x} too,
    and `cloze` the underscore that RACE uses for the blank.
    """

    statement: str
    question: str
    cloze: str


class Topic(NamedTuple):
    """Words of one kind, how a wh-question's option shows one, and the facts that they complete."""

    words: tuple[str, ...]
    option: str
    facts: tuple[Fact, ...]


PEOPLE = (
    ("Tom", "he", "his"),
    ("Jack", "he", "his"),
    ("Peter", "he", "his"),
    ("David", "he", "his"),
    ("Sam", "he", "his"),
    ("Li Ming", "he", "his"),
    ("Mary", "she", "her"),
    ("Alice", "she", "her"),
    ("Jenny", "she", "her"),
    ("Lucy", "she", "her"),
    ("Emma", "she", "her"),
    ("Wang Fang", "she", "her"),
)

TOPICS = (
    Topic(
        ("dog", "cat", "horse", "rabbit", "goat", "duck", "parrot", "pig"),
        "A {x}",
        (
            Fact(
                "{name} has a {x} and loves it.",
                "What kind of animal does {name} have?",
                "{name} takes good care of a _ .",
            ),
            Fact(
                "On the way, {he} saw a {x}.",
                "What did {name} see on the way?",
                "On the way {name} saw a _ .",
            ),
        ),
    ),
    Topic(
        ("park", "market", "library", "museum", "beach", "station", "farm", "cinema"),
        "The {x}",
        (
            Fact(
                "In the morning {name} went to the {x}.",
                "Which place did {name} visit in the morning?",
                "In the morning {name} went to the _ .",
            ),
            Fact(
                "{name} met an old friend near the {x}.",
                "Near which place did {name} meet an old friend?",
                "{name} and an old friend met near the _ .",
            ),
        ),
    ),
    Topic(
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        "On {x}",
        (
            Fact(
                "It was {x}, and there were no lessons.",
                "On which day does the story happen?",
                "The story happens on a _ .",
            ),
            Fact(
                "{name} came back on {x}.",
                "When did {name} come back?",
                "{name} did not come back until _ .",
            ),
        ),
    ),
    Topic(
        ("red", "blue", "green", "yellow", "white", "black", "brown", "purple"),
        "{x}",
        (
            Fact(
                "{He} wore a {x} coat that day.",
                "What was the colour of the coat that {name} wore?",
                "That day {name} wore a _ coat.",
            ),
            Fact(
                "The door of {his} house is {x}.",
                "What colour is the door of the house?",
                "{name} lives in a house with a _ door.",
            ),
        ),
    ),
    Topic(
        ("soup", "rice", "bread", "noodles", "fish", "salad", "cheese", "chicken"),
        "Some {x}",
        (
            Fact(
                "{He} ate {x} for lunch.",
                "What did {name} eat for lunch?",
                "For lunch {name} had some _ .",
            ),
            Fact(
                "{name} cooks {x} better than anyone.",
                "What does {name} cook best?",
                "According to the passage, {name} is good at cooking _ .",
            ),
        ),
    ),
    Topic(
        ("bus", "train", "taxi", "boat", "bicycle", "tram", "plane", "truck"),
        "By {x}",
        (
            Fact(
                "{name} travelled there by {x}.",
                "How did {name} get there?",
                "{name} got there by _ .",
            ),
            Fact(
                "Because it was far, they all came by {x}.",
                "How did they all come?",
                "It was so far that they came by _ .",
            ),
        ),
    ),
    Topic(
        ("brother", "sister", "uncle", "aunt", "cousin", "grandfather", "neighbour", "teacher"),
        "The {x}",
        (
            Fact(
                "{He} went with {his} {x}.",
                "Who went with {name}?",
                "{name} went together with {his} _ .",
            ),
            Fact(
                "{name} got a letter from {his} {x}.",
                "Who wrote a letter to {name}?",
                "The letter to {name} was from {his} _ .",
            ),
        ),
    ),
    Topic(
        ("sunny", "rainy", "windy", "cloudy", "snowy", "foggy", "stormy", "frosty"),
        "{x}",
        (
            Fact(
                "The weather was {x} from morning to night.",
                "What was the weather like?",
                "The weather that day was _ .",
            ),
            Fact(
                "It was a {x} day, but {name} did not mind.",
                "What kind of day was it?",
                "The story happens on a _ day.",
            ),
        ),
    ),
    Topic(
        ("football", "tennis", "basketball", "chess", "golf", "hockey", "cards", "badminton"),
        "Playing {x}",
        (
            Fact(
                "{name} is the best in the class at {x}.",
                "What is {name} good at?",
                "Nobody in the class is better than {name} at _ .",
            ),
            Fact(
                "After that, {he} played {x} for an hour.",
                "What did {name} do after that?",
                "{name} spent an hour playing _ .",
            ),
        ),
    ),
    Topic(
        ("doctor", "nurse", "driver", "writer", "baker", "singer", "pilot", "painter"),
        "A {x}",
        (
            Fact(
                "{name} hopes to become a {x} one day.",
                "What does {name} want to be?",
                "{name} would like to be a _ in the future.",
            ),
            Fact(
                "{His} mother works as a {x}.",
                "What is the job of the mother in the passage?",
                "We know that the mother of {name} is a _ .",
            ),
        ),
    ),
    Topic(
        ("watch", "camera", "hat", "ring", "ticket", "wallet", "glove", "kite"),
        "The {x}",
        (
            Fact(
                "On the bench {he} left a {x}.",
                "What did {name} leave on the bench?",
                "{name} forgot to take the _ from the bench.",
            ),
            Fact(
                "{name} was given a {x} as a birthday present.",
                "Which present did {name} get?",
                "The present for {name} was a _ .",
            ),
        ),
    ),
    Topic(
        ("piano", "guitar", "violin", "drum", "flute", "trumpet", "harp", "cello"),
        "The {x}",
        (
            Fact(
                "{He} has learned the {x} since {he} was small.",
                "What has {name} learned to play?",
                "{name} has learned to play the _ .",
            ),
            Fact(
                "Someone next door was practising the {x}.",
                "What could be heard from next door?",
                "From next door they could hear a _ .",
            ),
        ),
    ),
    Topic(
        ("happy", "sad", "tired", "proud", "worried", "excited", "surprised", "lonely"),
        "{x}",
        (
            Fact(
                "At first {name} felt {x}.",
                "How did {name} feel at first?",
                "At first {name} was _ .",
            ),
            Fact(
                "In the end everybody was {x}.",
                "How did everybody feel in the end?",
                "The end of the story made everybody _ .",
            ),
        ),
    ),
    Topic(
        ("maths", "history", "science", "geography", "physics", "biology", "drawing", "French"),
        "{x}",
        (
            Fact(
                "{name} likes {x} more than any other subject.",
                "What is the subject that {name} likes most?",
                "The subject that {name} likes most is _ .",
            ),
            Fact(
                "The {x} lesson was too hard for {his} friends.",
                "Which lesson was too hard?",
                "The friends of {name} found the _ lesson too hard.",
            ),
        ),
    ),
    Topic(
        ("March", "April", "June", "July", "August", "September", "October", "November"),
        "In {x}",
        (
            Fact(
                "All this happened in {x}.",
                "When did all this happen?",
                "All the things in the passage happened in _ .",
            ),
            Fact(
                "{name} was born in {x}.",
                "In which month was {name} born?",
                "The birthday of {name} is in _ .",
            ),
        ),
    ),
    Topic(
        ("three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        "{x}",
        (
            Fact(
                "There were {x} people in the room.",
                "How many people were there in the room?",
                "In the room there were _ people.",
            ),
            Fact(
                "{He} bought {x} apples for {his} family.",
                "How many apples did {name} buy?",
                "The family of {name} got _ apples.",
            ),
        ),
    ),
    Topic(
        ("London", "Paris", "Beijing", "Sydney", "Rome", "Cairo", "Madrid", "Berlin"),
        "In {x}",
        (
            Fact(
                "{name} lives in {x} with {his} parents.",
                "Where does {name} live?",
                "{name} and {his} parents live in _ .",
            ),
            Fact(
                "{He} will study in {x} next year.",
                "Where will {name} study?",
                "Next year {name} is going to study in _ .",
            ),
        ),
    ),
    Topic(
        ("tea", "coffee", "milk", "juice", "water", "lemonade", "cocoa", "soda"),
        "Some {x}",
        (
            Fact(
                "{name} asked for a glass of {x}.",
                "What did {name} ask for?",
                "{name} wanted to drink some _ .",
            ),
            Fact(
                "There was only {x} left to drink.",
                "What was left to drink?",
                "They had nothing but _ to drink.",
            ),
        ),
    ),
)

OPENINGS = (
    "This is a story about {name}.",
    "{name} is a student in a small town.",
    "Everyone at school knows {name}.",
    "{name} will never forget that day.",
    "Last year something strange happened to {name}.",
    "Let me tell you about my friend {name}.",
)

# What a high-school passage has between its facts: nothing is asked about them.
ASIDES = (
    "Nobody knew why.",
    "It was not easy.",
    "{He} smiled and said nothing.",
    '"Why not?" said {name}.',
    "That is how things often go.",
    "{name} thought about it for a long time.",
    "Both parents agreed.",
    "You may find this hard to believe.",
    "As the saying goes, better late than never.",
    "However, that was not all.",
)

CLOSINGS = (
    "{name} still talks about it today.",
    "What a day it was!",
    "{He} wrote it all down before going to bed.",
    "Since then {name} has never been late.",
    "And that is the end of the story.",
    "Would you do the same?",
)
