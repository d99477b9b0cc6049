"""Wording of the generated hospital notes: six specialties, six house styles, no real person, place or brand.

Specialties share vague complaints, unremarkable findings and neutral plans on purpose, and a note often speaks of
another specialty in passing: some notes cannot be told apart, as in life.
"""

from .grammar import Phrases, Shorthand, Wording

LABELS = ("cardiology", "dermatology", "gastroenterology", "neurology", "orthopaedics", "respiratory")

SPECIALTIES: dict[str, Wording] = {
    "cardiology": {
        "core": (
            "central chest pain on climbing stairs",
            "a racing heartbeat at rest",
            "palpitations that stop as suddenly as they start",
            "swollen ankles by the evening",
            "a blackout without warning",
            "a missed beat felt in the throat",
            "tightness across the chest when walking uphill",
            "waking at night and having to sit up to breathe",
        ),
        "vague": ("breathlessness", "chest discomfort", "dizziness", "leg swelling", "light-headedness", "tiredness"),
        "sign": (
            "an irregular pulse",
            "a soft murmur at the apex",
            "raised neck veins",
            "pitting of both ankles",
            "blood pressure high on three readings",
            "a slow regular pulse of 44",
        ),
        "test": (
            "the heart tracing",
            "an echocardiogram",
            "a 24-hour heart monitor",
            "the exercise test",
            "a repeat troponin",
        ),
        "condition": (
            "atrial fibrillation",
            "angina",
            "heart failure",
            "heart valve leak",
            "previous heart attack",
        ),
        "drug": ("a beta blocker", "a nitrate spray", "an anticoagulant", "a loop diuretic", "a calcium channel blocker"),
        "plan": ("list for angiography", "discuss a pacemaker", "refer to the heart failure nurse", "rate control first"),
    },
    "dermatology": {
        "core": (
            "an itchy rash on both elbows",
            "a mole that has changed colour",
            "scaly patches on the scalp",
            "blisters on the palms",
            "a slow-growing pearly spot on the nose",
            "weals that come and go within a day",
            "cracked skin between the toes",
            "inflamed spots on the face and back",
        ),
        "vague": ("a lump", "a sore on the lower leg", "itching", "leg swelling", "night sweats", "swelling of the face"),
        "sign": (
            "well-defined red plaques",
            "an irregular pigmented patch of 8 mm",
            "dry thickened skin in the creases",
            "pitted nails",
            "scattered crusted erosions",
            "blanching redness without scale",
        ),
        "test": ("a punch biopsy", "skin scrapings", "patch testing", "dermatoscopy", "a swab of the crusts"),
        "condition": ("psoriasis", "eczema", "rosacea", "previous skin cancer", "contact dermatitis"),
        "drug": ("a steroid ointment", "an emollient", "a topical antifungal", "an oral retinoid", "a vitamin D cream"),
        "plan": ("list for excision", "start light therapy", "wet wraps at night", "photograph the lesion and compare"),
    },
    "gastroenterology": {
        "core": (
            "burning behind the breastbone after meals",
            "loose stools six times a day",
            "fresh blood on wiping",
            "cramps relieved by opening the bowels",
            "solid food sticking on the way down",
            "bloating and early fullness",
            "vomiting after most meals",
            "yellowing of the eyes and dark urine",
        ),
        "vague": ("back pain", "chest discomfort", "itching", "loss of weight", "nausea", "tiredness"),
        "sign": (
            "tenderness under the right ribs",
            "a soft but distended abdomen",
            "an enlarged liver edge",
            "no mass on rectal examination",
            "tinkling bowel sounds",
            "tenderness in the left lower abdomen",
        ),
        "test": (
            "a gastroscopy",
            "a colonoscopy",
            "a stool sample",
            "liver function tests",
            "an ultrasound of the gallbladder",
        ),
        "condition": ("reflux disease", "coeliac disease", "ulcerative colitis", "gallstones", "stomach ulcer"),
        "drug": ("a proton pump inhibitor", "an antispasmodic", "a bulk laxative", "an antiemetic", "oral iron"),
        "plan": ("trial without gluten", "list for endoscopy", "refer to the dietitian", "treat the infection and rescope"),
    },
    "neurology": {
        "core": (
            "weakness of one arm",
            "numbness down the left side",
            "a one-sided headache with flashing lights",
            "a shaking spell with loss of awareness",
            "slurred speech for an hour",
            "double vision when looking left",
            "a tremor of the right hand",
            "unsteady walking with a wide base",
        ),
        "vague": ("a fall at home", "dizziness", "headache", "light-headedness", "poor sleep", "tingling in the hand"),
        "sign": (
            "brisk reflexes on the right",
            "reduced sensation to pinprick below the knee",
            "a drooping corner of the mouth",
            "stiffness of the arm with a slow tremor",
            "jerky eye movements",
            "a drift of the outstretched arm",
        ),
        "test": (
            "an MRI of the brain",
            "nerve conduction studies",
            "an EEG",
            "a lumbar puncture",
            "a scan of the neck arteries",
        ),
        "condition": ("epilepsy", "migraine", "previous stroke", "multiple sclerosis", "movement disorder"),
        "drug": ("an antiepileptic", "a triptan", "a dopamine agonist", "a nerve pain tablet", "an antiplatelet"),
        "plan": (
            "no driving for now",
            "keep a headache diary",
            "refer to the stroke team",
            "titrate the anticonvulsant slowly",
        ),
    },
    "orthopaedics": {
        "core": (
            "a stiff and swollen knee",
            "hip pain on bearing weight",
            "a painful shoulder after lifting",
            "an ankle twisted on a kerb",
            "wrist pain after landing on the outstretched hand",
            "a knee that locks and gives way",
            "low back pain on bending",
            "a big toe joint that rubs in shoes",
        ),
        "vague": ("a fall at home", "a lump", "back pain", "leg swelling", "poor sleep", "tingling in the hand"),
        "sign": (
            "a limited arc of abduction",
            "bony tenderness over the outer ankle",
            "crepitus under the kneecap",
            "a shortened and rotated leg",
            "laxity on stressing the joint",
            "tenderness at the base of the thumb",
        ),
        "test": ("a plain X-ray", "an MRI of the knee", "a bone density scan", "a joint aspiration", "a CT of the wrist"),
        "condition": ("osteoarthritis of the hip", "rotator cuff tear", "osteoporosis", "knee replacement", "gout"),
        "drug": ("an anti-inflammatory gel", "a steroid injection", "a bisphosphonate", "a calcium tablet", "weekly methotrexate"),
        "plan": (
            "refer to physiotherapy",
            "list for arthroscopy",
            "weight bearing as tolerated",
            "check the fracture in plaster",
        ),
    },
    "respiratory": {
        "core": (
            "a wheeze that is worse at night",
            "coughing up green sputum",
            "a dry cough for months",
            "streaks of blood in the sputum",
            "loud snoring with pauses in breathing",
            "noisy breathing after running",
            "sharp pain on taking a deep breath",
            "needing the inhaler every few hours",
        ),
        "vague": (
            "breathlessness",
            "chest discomfort",
            "loss of weight",
            "night sweats",
            "swelling of the face",
            "tiredness",
        ),
        "sign": (
            "crackles at both bases",
            "a prolonged wheeze on breathing out",
            "dullness to percussion on the left",
            "saturations of 91 % on air",
            "a respiratory rate of 26",
            "clubbed fingers",
        ),
        "test": ("a chest film", "spirometry", "a sputum culture", "a CT of the lungs", "an overnight oxygen study"),
        "condition": ("asthma", "chronic bronchitis", "sleep apnoea", "previous lung clot", "bronchiectasis"),
        "drug": (
            "a steroid inhaler",
            "a long-acting bronchodilator",
            "home oxygen",
            "a mucus thinner",
            "a course of doxycycline",
        ),
        "plan": ("refer to lung rehabilitation", "check inhaler technique", "drain the effusion", "repeat peak flows"),
    },
}

COMMON: Wording = {
    "complaint": ("{core}", "{core}", "{core}", "{core}", "{vague} and {core}", "{vague} and {vague}", "{vague}"),
    "who": ("woman", "man", "patient", "teacher", "lorry driver", "cleaner", "farmer", "shop assistant", "cook"),
    "age": range(19, 91),
    "weeks": range(2, 13),
    "span": ("for {weeks} weeks", "since last month", "since the spring", "on and off for a year", "for some days"),
    "opening": (
        "{age}-year-old {who} with {complaint} {span}",
        "this {who} of {age} describes {complaint} {span}",
        "seen on {ward}: {who}, {age}, with {complaint} {span}",
    ),
    "finding": (
        "examination shows {sign}",
        "on examination {sign}",
        "{sign}, otherwise well",
        "looks well, observations stable",
        "{test}: normal",
        "{test}: result awaited",
    ),
    "negative": (
        "denies {other_vague} or {other_core}",
        "has had neither {other_vague} nor {vague}",
        "no change in weight or appetite",
        "{other_test} last year: normal",
        "no sign of {other_condition}",
    ),
    "background": (
        "known {other_condition}, on {other_drug}",
        "history of {other_condition}, stable for years",
        "family history of {other_condition}",
        "takes {other_drug}; {other_condition} in the past",
        "under {other_ward} for {other_condition}",
        "note from {other_ward}: {other_plan}",
        "known {condition}, on {drug}",
        "lives alone, walks the dog every day",
        "stopped smoking ten years ago, drinks little",
        "works nights and is worried about missing shifts",
        "shares a flat with a sister, third floor, no lift",
        "has just moved here, earlier records not yet at hand",
    ),
    "outlook": (
        "plan: {plan}",
        "to start {drug}",
        "will request {test}",
        "review in {weeks} weeks",
        "letter to the family doctor",
        "reassured, to come back if it gets worse",
    ),
}

SHAPES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (3, ("opening", "finding", "outlook")),
    (3, ("opening", "negative", "finding", "outlook")),
    (3, ("opening", "background", "finding", "outlook")),
    (2, ("opening", "background", "negative", "outlook")),
    (2, ("opening", "background", "negative", "finding")),
    (1, ("opening", "negative", "background")),
    (1, ("opening", "background", "outlook")),
)

STYLES: tuple[Wording, ...] = (
    {},
    {
        "opening": (
            "{age} y/o {who}, complains of {complaint} {span}",
            "{who} {age}, admitted to {ward}, complains of {complaint} {span}",
        ),
        "outlook": (*COMMON["outlook"], "discharge from {ward}, follow-up in {weeks} weeks"),
    },
    {
        "opening": (
            "presenting complaint: {complaint} {span}; {who}, {age}",
            "reason for visit: {complaint} {span} in a {who} aged {age}",
            "attended {ward} at the age of {age}, {who}; main problem {complaint} {span}",
        ),
        "negative": (
            "negatives: {other_core}, {other_vague}",
            "asked about {other_core}: none",
            "{other_test} not indicated",
            "{other_condition} thought unlikely",
        ),
    },
    {
        "opening": (
            "thank you for asking me to see this {who} of {age}, who has had {complaint} {span}",
            "I met this {who} ({age}) on {ward} because of {complaint} {span}",
        ),
        "outlook": (
            "my advice: {plan}",
            "I have prescribed {drug}",
            "I have asked for {test}",
            "I shall see them again in {weeks} weeks",
            "no further appointment has been made",
            "I have explained what to look out for",
        ),
    },
    {
        "opening": ("nurse-led clinic, {ward}: {complaint} {span} ({who}, {age})", "{who}, {age}: {complaint} {span}"),
        "background": (*COMMON["background"], "carer present", "interpreter used for the whole visit"),
    },
    {
        "opening": ("telephone review of a {who} of {age}: {complaint} {span}", "call from {ward}: {complaint} {span}, {age}"),
        "finding": ("not examined", "sounds comfortable on the phone", "reports {sign}", "{test}: normal"),
    },
)

SHORTHAND = (
    Shorthand({}),
    Shorthand(
        {
            "complains of": "c/o", "history of": "hx", "examination": "o/e", "patient": "pt", "Patient": "Pt", "review": "r/v",
            "follow-up": "f/u", "weeks": "wk", "blood pressure": "BP", "on and off": "o/o", "normal": "NAD",
            "observations": "obs", "no sign of": "nil", "breathlessness": "SOB", "known": "PMH",
        }
    ),
    Shorthand({"year-old": "yrs", "with": "w/", "without": "w/o", "weeks": "wks", "chest discomfort": "chest d/c"}),
    Shorthand({}),
    Shorthand({"patient": "client", "tiredness": "fatigue", "dizziness": "giddiness", "itching": "pruritus"}),
    Shorthand({"weeks": "wk", "month": "mth", "patient": "caller", "months": "mths"}),
)  # fmt: skip

_WARDS = (
    ("Heron", "Wren", "Plover", "Curlew", "Siskin", "Teal"),
    ("Ward 1", "Ward 2", "Ward 3", "Ward 4", "Ward 5", "Ward 6"),
    ("Quartz", "Flint", "Slate", "Basalt", "Chalk", "Marble"),
    ("Unit A", "Unit B", "Unit C", "Unit D", "Unit E", "Unit F"),
    ("the Orchard", "the Meadow", "the Spinney", "the Dell", "the Copse", "the Glade"),
    ("bay 11", "bay 12", "bay 13", "bay 14", "bay 15", "bay 16"),
)


def wards(style: int) -> tuple[Phrases, ...]:
    """By specialty: mostly its own ward of that house, now and then the next one, where it has outliers."""
    names = _WARDS[style]
    return tuple((name, name, name, names[(index + 1) % len(names)]) for index, name in enumerate(names))
