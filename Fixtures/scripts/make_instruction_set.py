"""Makes a small set of instructions: a harbour's log lines, to be entered in a form of its own.

Usage: python make_instruction_set.py OUTPUT   (writes OUTPUT/train.jsonl and OUTPUT/valid.jsonl)

Ships and captains of the held lines are in none of the others. The same files each time; needs nothing but Python.
"""

import json
import pathlib
import random
import sys

SHIPS = ("Grey Heron,Anna Lund,Morning Star,Black Petrel,North Wind,Old Alma,Sea Holly,Marigold,Blue Wren,Patience,Fair Isle,Kestrel,"
         "Saint Olaf,Two Brothers,Whimbrel,Silver Tern,Evening Tide,Long Sand,Magpie,Rosalind,Stormcock,Thistle,Upland,Viola").split(",")
CAPTAINS = ("Brandt,Oakes,Larsen,Pell,Moreau,Quist,Tamm,Usher,Vane,Wick,Yule,Zander,Abel,Crane,Dorn,Eddy,Frost,Gale,Hobbs,Ives,Jory,Kemp").split(",")
CARGOES = "salt,coal,timber,barley,wool,slate,oranges,iron,rope,herring,glass,cider".split(",")
PORTS = "Bergen,Lisbon,Hull,Riga,Cork,Bruges,Malmo,Porto,Leith,Gdansk".split(",")
LINES = [
    "The {ship} came in from {port} with {count} tons of {cargo}. Captain {captain} asked for berth {berth}.",
    "Captain {captain} brought the {ship} to berth {berth}, carrying {count} tons of {cargo} from {port}.",
    "At berth {berth} lies the {ship}, {count} tons of {cargo} aboard, out of {port} under Captain {captain}.",
    "From {port}, with {count} tons of {cargo}: the {ship}, Captain {captain}. She was given berth {berth}.",
]
FORM = "{berth:02d} / {ship_upper} ({captain}) / {cargo} {count}t < {port}"


def record(chance, ships, captains):
    values = {"ship": chance.choice(ships), "captain": chance.choice(captains), "cargo": chance.choice(CARGOES),
              "port": chance.choice(PORTS), "count": chance.randint(5, 95), "berth": chance.randint(1, 24)}
    question = "Enter in the harbour book: " + chance.choice(LINES).format(**values)
    answer = FORM.format(**values, ship_upper=values["ship"].upper())
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    for name, count, ships, captains in (("train", 240, SHIPS[:18], CAPTAINS[:16]), ("valid", 24, SHIPS[18:], CAPTAINS[16:])):
        rows = [record(chance, ships, captains) for _ in range(count)]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
