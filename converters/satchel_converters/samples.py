"""The built-in inputs that every conversion is judged on: short and long, many languages, and what users really type.

They are written for this project. `--data` replaces them with the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.tasks import task_class
from satchel_runtimes.tasks.task import ModelFacts

__all__ = ["TEXTS", "golden_items"]

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


def golden_items(tasks: Sequence[str], facts: ModelFacts) -> list[GoldenItem]:
    """The built-in inputs in the form of each task, every task with all of them."""
    items = []
    for name in tasks:
        kind = task_class(name)
        for index, text in enumerate(TEXTS):
            value, options = kind.sample(text, index, facts)
            items.append(GoldenItem(name, value, options))
    return items
