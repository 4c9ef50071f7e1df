"""The built-in inputs: those that every conversion is judged on, and others that a static scheme is calibrated on.

Short and long, many languages, and what users really type. They are written for this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.tasks import task_class
from satchel_runtimes.tasks.task import ModelFacts

from .pictures import CALIBRATION_PICTURES, PICTURES
from .sounds import CALIBRATION_SOUNDS, SOUNDS

__all__ = ["CALIBRATION_TEXTS", "TEXTS", "calibration_items", "golden_items"]

TEXTS: tuple[str, ...] = (
    "Where is my order?",
    "The parcel arrived two days late and the box was crushed.",
    "How do I reset the password of my account?",
    "The battery lasts about nine hours when the screen is dimmed.",
    "I would like to return these shoes because they are too small.",
    "A small model that answers quickly is often better than a large one that does not.",
    "Rain is expected in the north tonight, with strong winds near the coast.",
    "The committee will publish its report on water quality in March.",
    "She plays the cello in a quartet that rehearses every Thursday evening.",
    "Turn off the lights in the kitchen and lock the front door.",
    "Shares of the carmaker fell four percent after the recall was announced.",
    "Boil the potatoes until they are soft, then mash them with butter and salt.",
    "The museum is closed on Mondays except on public holidays.",
    "What is the fastest way to get from the airport to the central station?",
    "He scored twice in the second half and was named player of the match.",
    "The patient should take one tablet with food in the morning.",
    "Our train leaves from platform seven at a quarter past six.",
    "The new library has four floors, a reading garden and a workshop with two printers.",
    "Nothing in this drawer belongs to me.",
    "The contract ends after twelve months unless one party renews it in writing.",
    "Bees find their way by the position of the sun.",
    "Could you please speak a little more slowly?",
    "The film is too long, but the last half hour is wonderful.",
    "An earthquake of magnitude five was felt across the island; no damage was reported.",
    "Please find attached the invoice for the repair of the heating system.",
    "The old bridge was built from granite in eighteen seventy-two and carries only cyclists today.",
    "I have never been so disappointed by a hotel.",
    "The teacher asked the children to draw the house in which they live.",
    "Water boils at a lower temperature in the mountains.",
    "Is there a vegetarian dish on the menu today?",
    "The software update fixes a bug that made the camera freeze.",
    "They painted the fence green, then blue, and in the end they took it down.",
    "Maria Gomez moved from Lisbon to Berlin to work for Siemens.",
    "The United Nations was founded in San Francisco in 1945.",
    "My grandmother kept her recipes in a tin box under the stairs.",
    "Traffic on the ring road is moving slowly because of road works.",
    "The experiment was repeated three times with the same result.",
    "Who wrote the song that was played at the end of the ceremony?",
    "Prices rose by two percent last year, less than economists had expected.",
    "Cats sleep for most of the day and hunt at dusk.",
    "No.",
    "thanks, that worked!!",
    "",
    " ",
    "😀😀 so happy today 🎉",
    "👩‍👩‍👧‍👦 family trip ✈️ 🏖️",
    "def area(radius):\n    return 3.14159 * radius ** 2",
    "SELECT name, price FROM items WHERE price > 10 ORDER BY name;",
    '{"id": 17, "status": "shipped", "eta": null}',
    "https://example.org/path?query=1&lang=en#top",
    "C:\\Users\\anna\\Documents\\report-final(2).docx",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "1234567890 0987654321 3.14159 -42 1e-9 50%",
    "ALL CAPITALS MAKE A SENTENCE SOUND LIKE SHOUTING",
    "wiht speling mitsakes adn no punctation at al",
    "¿Dónde está la estación de tren más cercana?",
    "Le rapport sera publié au mois de mars par la commission.",
    "Die Lieferung kam zwei Tage zu spät und der Karton war beschädigt.",
    "Il treno per Milano parte dal binario sette.",
    "A encomenda chegou atrasada e a caixa estava danificada.",
    "Pociąg do Krakowa odjeżdża o szóstej piętnaście.",
    "Поезд отправляется с седьмой платформы через десять минут.",
    "Το μουσείο είναι κλειστό τη Δευτέρα.",
    "電車は七番線から出発します。",
    "图书馆有四层楼和一个阅读花园。",
    "도서관은 월요일에 문을 닫습니다.",
    "المتحف مغلق يوم الاثنين.",
    "הרכבת יוצאת מרציף שבע.",
    "रेलगाड़ी सातवें प्लेटफार्म से चलती है।",
    "รถไฟออกจากชานชาลาที่เจ็ด",
    "Naïve café façade, coöperate, Ångström, Straße, İstanbul",
    (
        "The harbour was quiet that morning. Two fishing boats had come in before dawn and their crews were mending nets on "
        "the quay, while a third, painted bright red, still lay outside the breakwater and waited for the tide. A dog ran "
        "along the water, barked at the gulls, and came back each time with its tail between its legs. Nobody spoke. When "
        "the bell of the small church struck seven, the oldest of the men stood up, folded his knife, and walked up the "
        "hill to the bakery, as he had done every day since he was a boy."
    ),
)


# None of these is judged: ranges that fit the judged texts alone would look better than they are.
CALIBRATION_TEXTS: tuple[str, ...] = (
    "Can I change the delivery address of an order that was already sent?",
    "The second speaker crackles when the volume is above half.",
    "Add two eggs, a cup of flour and a pinch of salt, and stir until nothing sticks to the bowl.",
    "The ferry to the northern islands runs twice a day from May to September.",
    "He apologised for the noise and offered to pay for the broken window.",
    "Interest rates were left unchanged for the fourth month in a row.",
    "Set a timer for eleven minutes.",
    "The left back of the visiting team was sent off shortly before half-time.",
    "Press and hold both buttons until the light turns orange.",
    "We walked along the canal for an hour and did not meet a single person.",
    "The vaccine must be stored between two and eight degrees.",
    "Which of these two laptops has the better keyboard?",
    "The court ruled that the company had to publish the results of its tests.",
    "A comet will be visible to the naked eye after sunset next week.",
    "terrible support, waited 3 weeks and nobody answered :(",
    "ok",
    "Invoice no. 2024-118, due 30/06, total 1,249.00 EUR",
    "SELECT count(*) FROM users WHERE created_at < '2020-01-01';",
    "for (let i = 0; i < items.length; i++) { total += items[i].price; }",
    "🎂 See you at 8! 🥳",
    "La réunion est reportée à jeudi prochain.",
    "Ich hätte gern zwei Karten für die Vorstellung am Samstag.",
    "El niño encontró una moneda antigua en la playa.",
    "Książka leży na stole obok okna.",
    "Музей открыт каждый день, кроме вторника.",
    "明日の会議は午後三時に始まります。",
    "这家餐厅的面条很好吃。",
    "سأصل إلى المطار في المساء.",
    "कल बारिश होने की संभावना है।",
    (
        "The workshop lies at the end of a lane that is too narrow for cars. In the front room, shelves reach up to the "
        "ceiling, filled with clocks that no longer run; in the back, under a north window, stands the bench at which three "
        "generations of the family have worked. Customers bring what their grandparents left them, and most of them do not ask "
        "what the repair will cost. They ask whether it will sound as it did when they were children."
    ),
)


def golden_items(tasks: Sequence[str], facts: ModelFacts, own: Sequence[Any] = ()) -> list[GoldenItem]:
    """The built-in inputs in the form of each task, every task with all of its kind; a user's own for the main task.

    What a classifier of news says to a recipe is chance, and quantization may change it; what it says to news, it may not.
    """
    if own:
        return [GoldenItem(tasks[0], each, {}) for each in own] + golden_items(tasks[1:], facts)
    return [item for name in tasks for item in _items(name, _GOLDEN, facts)]


def calibration_items(task: str, facts: ModelFacts) -> list[GoldenItem]:
    """Other inputs in the form of a task, for schemes that take the ranges of activations from samples."""
    return _items(task, _CALIBRATION, facts)


_GOLDEN = {"text": TEXTS, "image": PICTURES, "audio": SOUNDS, "series": tuple(map(str, range(64)))}
_CALIBRATION = {
    "text": CALIBRATION_TEXTS,
    "image": CALIBRATION_PICTURES,
    "audio": CALIBRATION_SOUNDS,
    "series": tuple(map(str, range(1000, 1032))),
}


def _items(task: str, kinds: Mapping[str, Sequence[str]], facts: ModelFacts) -> list[GoldenItem]:
    kind = task_class(task, facts.config)
    parts = [kinds[name] for name in kind.modality.split("+")]
    made = []
    for index in range(max(map(len, parts))):
        taken = tuple(part[index % len(part)] for part in parts)
        made.append(kind.sample(taken if len(taken) > 1 else taken[0], index, facts))
    return [GoldenItem(task, value, options) for value, options in made]
