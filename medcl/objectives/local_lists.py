"""The neighbour lists of the authors' code of local contrast, on a square map.

(points, voxels along a side) -> point -> its 5 neighbours. A point is row and column, each at 0, a
quarter (q), half (h), three quarters (t) or all (m) of the way to the last corner. The lists have
oddities: hq, qh, ht and th are no points of the grid.
"""

LISTS: dict[tuple[int, int], dict[str, str]] = {
    (13, 3): {
        "00": "0h,qq,qh,h0,hq",
        "0h": "00,0m,qq,qt,hh",
        "0m": "0h,qh,qt,ht,hm",
        "h0": "00,qq,hh,m0,tq",
        "hh": "qq,qt,tq,tt,h0",
        "hm": "0m,hh,mm,qt,tt",
        "m0": "h0,hq,mh,tq,th",
        "mh": "hh,m0,mm,tq,tt",
        "mm": "ht,hm,mh,tt,th",
        "qq": "00,0h,h0,hh,qt",
        "qt": "0h,0m,qq,hh,hm",
        "tq": "h0,hh,m0,mh,tt",
        "tt": "hh,hm,mh,mm,tq",
    },
    (13, 1): {
        "00": "0h,h0,hh,qq,qt",
        "0h": "00,0m,hh,qq,qt",
        "0m": "0h,hh,hm,tq,qt",
        "h0": "00,hh,m0,qq,tq",
        "hh": "qq,qt,tq,tt,h0",
        "hm": "0m,hh,mm,qt,tt",
        "m0": "h0,hh,mh,tq,qq",
        "mh": "hh,m0,mm,tq,tt",
        "mm": "hh,hm,mh,tt,tq",
        "qq": "00,0h,h0,hh,qt",
        "qt": "0h,0m,hh,hm,tt",
        "tq": "h0,hh,m0,0h,qq",
        "tt": "hh,hm,mh,mm,qt",
    },
}
NINE = {
    "00": "0h,h0,hh,0m,m0",
    "0h": "00,0m,h0,hh,hm",
    "0m": "00,0h,hh,hm,mm",
    "h0": "00,0h,hh,m0,mh",
    "hh": "00,0h,h0,hm,mh",
    "hm": "0h,0m,hh,mh,mm",
    "m0": "00,h0,hh,mh,mm",
    "mh": "h0,hh,hm,m0,mm",
    "mm": "0m,hh,hm,m0,mh",
}
LISTS |= {(9, 3): NINE, (9, 1): NINE}
