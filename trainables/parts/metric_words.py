"""What metrics say, in a sentence each, for people who do not know them: ``Family.explained``."""

LOSS_WORDS = {
    "val_loss": "How surprised the model is by what people wrote about pictures that it has not seen; 0 is not at all.",
    "train_loss": "How surprised the model is by the training data. Where it falls and val_loss rises, it learns by "
    "heart.",
}

CAPTION_WORDS = {
    **LOSS_WORDS,
    "cider": "How well captions say what people said, rare words counting more. 0 is nothing alike; papers print 1 as "
    "100.",
    "bleu_1": "Share of a caption's words that people used too.",
    "bleu_2": "As bleu_1, for pairs of words in a row as well.",
    "bleu_3": "As bleu_1, for up to three words in a row.",
    "bleu_4": "As bleu_1, for up to four words in a row: also whether captions are put together as people do it.",
    "rouge_l": "How long a sequence of words captions share with what people wrote.",
    "perplexity": "Among how many words the model hesitates, on average, at each word that people wrote.",
    "token_accuracy": "Share of the words that people wrote which the model would have said at that place.",
    "meteor": "How well the words of captions can be laid beside people's, other forms and synonyms included.",
    "spice": "Whether captions name what people named, with its properties and how things stand to each other.",
    "similarity": "How near a sentence encoder finds captions to what people wrote; 1 is the same meaning.",
    "glove_similarity": "How near the words of captions are to people's on the whole, by the company that words keep.",
    "bert_score_f1": "How well each word finds one that means the same in context, from captions to people and back.",
    "clip_score": "How well captions fit the pictures themselves, by a model that saw many pictures with their texts.",
    "ref_clip_score": "As clip_score, and how near captions are to what people wrote.",
    "self_bleu": "How much captions repeat each other; lower is more varied.",
    "distinct_1": "Share of different words among all that were said; higher is more varied.",
    "distinct_2": "As distinct_1, for pairs of words in a row.",
    "vocabulary_used": "How many different words all captions use together.",
    "samples_similarity": "How near a sentence encoder finds several captions of a picture to what people wrote of it.",
    "samples_self_bleu": "How much several captions of one picture repeat each other; lower is more varied.",
}

_WAYS = {
    "text_to_picture": "For a text, whether its picture is",
    "picture_to_text": "For a picture, whether one of its texts is",
}

RETRIEVAL_WORDS = {
    **{
        f"{way}_recall_at_{k}": f"{words} {'found first' if k == 1 else f'among the first {k} found'}: a share of all."
        for way, words in _WAYS.items()
        for k in (1, 5, 10)
    },
    "text_to_picture_median_rank": "For half of the texts the right picture came at this place or before; 1 is ideal.",
    "picture_to_text_median_rank": "For half of the pictures a right text came at this place or before; 1 is ideal.",
    "mean_recall": "How often the right picture or text is among the first 1, 5 or 10 found: the mean of six shares.",
    "val_loss": "How unsure the model is which picture and text belong together, for pictures that it has not seen.",
    "train_loss": LOSS_WORDS["train_loss"],
    "modality_gap": "How far pictures and texts lie apart on the whole, where the model compares them.",
}

CAPDEC_WORDS = {
    **CAPTION_WORDS,
    "text_val_loss": "As val_loss, when the model is given the text itself in place of the picture: what lies between "
    "the two is lost on the way from text to picture.",
    "modality_gap": RETRIEVAL_WORDS["modality_gap"],
}
