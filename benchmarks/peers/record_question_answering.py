"""What transformers 4.57 answers: the oracle for question-answering, which transformers 5 no longer has.

    .cache/peers/optimum/bin/python benchmarks/peers/record_question_answering.py MODEL OUT.json

MODEL is the folder that `question_answering` of tests/models.py writes. A refused case is recorded with its error.
"""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

Case = dict[str, Any]  # Any: the JSON of a case, whose keyword arguments are the pipeline's own

WORK = (
    "As an engineer, Ravi Patel has a post at Nokia. The office of Siemens in Munich was opened in 1974. "
    "The summer festival will take place in Toronto on Sunday."
)
BIRTH = "Anna Kowalska was born in Krakow in 1975. She studied physics and plays the violin."
CURIE = "Marie Curie was born in Warsaw in 1867."
ODD = "In 1988, Zoë Müller-Gößling 👩‍🚀 was born in São Paulo 🇧🇷. Ravi\u00a0Patel works for Nokia\tas a  designer."
CJK = "田中さんは1988年に大阪で生まれました。Hiroshi Tanaka was born in 大阪 in 1988."
FILLER = (
    "The road along the river was closed for repairs during most of the winter, and people took the ferry instead.",
    "A small museum shows old maps, coins and a collection of ship models that a retired captain had built.",
    "Bread is baked before dawn, so that the smell of it fills the narrow streets around the market square.",
    "Nobody remembers who planted the chestnut trees, but every autumn the children fill their pockets there.",
)


def cases() -> Iterator[Case]:
    """Inputs by name; what a case is about is what its name says."""
    born, work = "Where was Anna Kowalska born?", "Who does Ravi Patel work for?"

    def case(name: str, question: str | list[str], context: str | list[str], **kwargs: Any) -> Case:
        return {"name": name, "question": question, "context": context, "kwargs": kwargs}

    yield case("short", born, BIRTH)
    yield case("several facts", "Where did Siemens open an office?", WORK)
    yield case("answer at the beginning", "Who was born in Warsaw?", CURIE)
    yield case("answer at the end", "When was Marie Curie born?", CURIE)
    yield case(
        "answer is the last word without a full stop", "Where do I live?", "My name is Wolfgang and I live in Berlin"
    )
    yield case("question without an answer", "How heavy is an elephant?", BIRTH)
    yield case(
        "question without an answer, which may be said",
        "How heavy is an elephant?",
        BIRTH,
        handle_impossible_answer=True,
    )
    yield case("an answer although none may be said", born, BIRTH, handle_impossible_answer=True)
    yield case("top 3", work, WORK, top_k=3)
    yield case("top 3 with the impossible answer", work, WORK, top_k=3, handle_impossible_answer=True)
    yield case("top 3 as tokens", work, WORK, top_k=3, align_to_words=False)
    yield case("fewer answers than asked for", work, "Ravi works for Nokia.", top_k=50)
    yield case("answer of one token at most", "Who works for Nokia?", WORK, max_answer_len=1)
    yield case("answer of two tokens at most", "Who was born in Krakow?", BIRTH, max_answer_len=2)
    yield case("top 5 of one token at most", "When will the summer festival be?", WORK, max_answer_len=1, top_k=5)
    yield case("word pieces joined to words", "Who was born in Krakow?", BIRTH, align_to_words=True)
    yield case("word pieces as they are", "Who was born in Krakow?", BIRTH, align_to_words=False, top_k=3)
    yield case("accents and emoji", "Who was born in São Paulo?", ODD)
    yield case("no-break space, tab and double space", "What is the job of Ravi Patel?", ODD, top_k=2)
    yield case("Chinese characters", "Where was Hiroshi Tanaka born?", CJK)
    yield case("Chinese characters as tokens", "Where was Hiroshi Tanaka born?", CJK, align_to_words=False, top_k=3)
    yield case("upper case and blanks around", "  WHERE WAS ANNA KOWALSKA BORN?  ", f"\n {BIRTH} \n")
    yield case("the same answer twice", born, f"{BIRTH} Peter Smith was born in Krakow in 1990.", top_k=3)

    half = " ".join(FILLER * 4)
    for name, context in (
        ("first", f"{BIRTH} {half} {half}"),
        ("middle", f"{half} {BIRTH} {half}"),
        ("last", f"{half} {half} {BIRTH}"),
    ):
        yield case(f"long context, answer {name}", born, context)
    yield case(
        "long context, top 3 with the impossible answer",
        born,
        f"{half} {BIRTH} {half}",
        top_k=3,
        handle_impossible_answer=True,
    )
    yield case(
        "long context without an answer", "How heavy is an elephant?", f"{half} {half}", handle_impossible_answer=True
    )
    filler = " ".join(FILLER)
    for length, stride in ((32, 8), (32, 16), (48, 24), (64, 0), (64, 32)):
        context = f"{filler} {BIRTH} {FILLER[0]}"
        yield case(
            f"windows of {length} with stride {stride}", born, context, max_seq_len=length, doc_stride=stride, top_k=2
        )
    yield case("small windows, stride not given", born, f"{filler} {BIRTH}", max_seq_len=40)
    yield case("small windows, padded", born, f"{filler} {BIRTH}", max_seq_len=40, doc_stride=10, padding="max_length")
    yield case("stride longer than a window has room", born, f"{filler} {BIRTH}", max_seq_len=24, doc_stride=22)
    yield case("stride longer than the window", born, BIRTH, max_seq_len=32, doc_stride=33)
    yield case("window shorter than the question", born, BIRTH, max_seq_len=8, doc_stride=2)
    yield case("question longer than max_question_len, which has no effect", born, BIRTH, max_question_len=2)

    yield case("several questions, several contexts", [born, work, "When was Marie Curie born?"], [BIRTH, WORK, CURIE])
    yield case("several questions, one context", [born, "When was Anna Kowalska born?"], BIRTH)
    yield case("several questions, top 2", [born, work], [BIRTH, WORK], top_k=2)
    yield case("a list of one", [born], [BIRTH])
    yield case("more questions than contexts", [born, work], [BIRTH])
    yield case("empty question", "", BIRTH)
    yield case("empty context", born, "")
    yield case("blank context", born, "   ")
    yield case("top 0", born, BIRTH, top_k=0)
    yield case("answer of no token", born, BIRTH, max_answer_len=0)


def recorded(case: Case, answer: transformers.Pipeline) -> Case:
    """The case with its answer, or with the error that the pipeline raises."""
    try:
        return case | {"output": answer(question=case["question"], context=case["context"], **case["kwargs"])}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the error is the record, and a panic in `tokenizers` is no Exception
        return case | {"error": {"type": type(error).__name__, "message": str(error)}}


def main(model_folder: Path, out: Path) -> None:
    if not transformers.__version__.startswith("4.57."):
        raise SystemExit(
            f"transformers {transformers.__version__} is no oracle here: run in the environment of make_env.sh optimum"
        )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(model_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    answer = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer, device="cpu")
    record = {
        "versions": {
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "model": {
            "builder": "tests/models.py question_answering",
            # A folder whose norms differ is another model, and its answers are not these.
            "norms": {
                name: model.get_parameter(name).double().norm().item()
                for name in ("qa_outputs.weight", "bert.encoder.layer.5.output.dense.weight")
            },
        },
        "cases": [recorded(case, answer) for case in cases()],
    }
    out.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['cases'])} cases in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
