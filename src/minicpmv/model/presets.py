"""The four sizes this package knows by name, in the official flat layout.

`4.5` is the release's own `config.json`; `4.0` is the file as reconstructed from transformers pull request 39899 (its
layer count of 32 follows from the published size). `nano` is the bundled checkpoint: the same architecture, smaller
numbers. `toy` is for tests.
"""

from typing import Any

# MiniCPM-V 4.0's static LongRoPE: the same 64 factors for short and long prompts. Source: transformers pull request
# 39899.
LONGROPE_FACTORS = (
    [0.9977997200264581, 1.014658295992452, 1.0349680404997148, 1.059429246056193, 1.0888815016813513]
    + [1.1243301355211495, 1.166977103606075, 1.2182568066927284, 1.2798772354275727, 1.3538666751582975]
    + [1.4426259039919596, 1.5489853358570191, 1.6762658237220625, 1.8283407612492941, 2.0096956085876183]
    + [2.225478927469756, 2.481536379650452, 2.784415934557119, 3.1413289096347365, 3.560047844772632]
    + [4.048719380066383, 4.615569542115128, 5.2684819496549835, 6.014438591970396, 6.858830049237097]
    + [7.804668263503327, 8.851768731513417, 9.99600492938444, 11.228766118181639, 12.536757560834843]
    + [13.902257701387796, 15.303885189125953, 16.717837610115794, 18.119465097853947, 19.484965238406907]
    + [20.792956681060105, 22.02571786985731, 23.16995406772833, 24.217054535738416, 25.16289275000465]
    + [26.007284207271347, 26.753240849586767, 27.40615325712662, 27.973003419175363, 28.461674954469114]
    + [28.880393889607006, 29.237306864684626, 29.540186419591297, 29.79624387177199, 30.01202719065413]
    + [30.193382037992453, 30.34545697551969, 30.47273746338473, 30.579096895249787, 30.66785612408345]
    + [30.741845563814174, 30.80346599254902, 30.85474569563567, 30.897392663720595, 30.932841297560394]
    + [30.962293553185553, 30.986754758742034, 31.007064503249293, 31.02392307921529]
)

_SIGLIP2_SO400M = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "model_type": "siglip",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}

_RELEASE_4_5: dict[str, Any] = {
    "version": 4.5,
    "architectures": ["MiniCPMV"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151748,
    "batch_vision_input": True,
    "batch_3d_resampler": True,
    "drop_vision_last_layer": False,
    "image_size": 448,
    "patch_size": 14,
    "query_num": 64,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
    "slice_mode": True,
    "vision_config": _SIGLIP2_SO400M,
}

_RELEASE_4_0: dict[str, Any] = {
    "version": 4.0,
    "architectures": ["MiniCPMV"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 73440],
    "pad_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "max_position_embeddings": 32768,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": {
        "rope_type": "longrope",
        "factor": 1.0,
        "long_factor": LONGROPE_FACTORS,
        "short_factor": LONGROPE_FACTORS,
        "original_max_position_embeddings": 32786,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 73448,
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "image_size": 448,
    "patch_size": 14,
    "query_num": 64,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448, "model_type": "minicpmv"},
    "slice_mode": True,
    "use_image_id": True,
    "vision_batch_size": 16,
    "vision_config": _SIGLIP2_SO400M,
}


def _small(*, vocab_size: int, language: dict[str, Any], vision: dict[str, Any], resolution: int) -> dict[str, Any]:
    """A 4.5 with other numbers: only what the official file already has is changed."""
    return {
        **_RELEASE_4_5,
        **language,
        "vocab_size": vocab_size,
        "torch_dtype": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "image_size": resolution,
        "slice_config": {**_RELEASE_4_5["slice_config"], "scale_resolution": resolution},
        "vision_config": {**_SIGLIP2_SO400M, **vision},
    }


_NANO = _small(
    vocab_size=512,
    language={
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_theta": 10000,
    },
    vision={"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4, "num_hidden_layers": 6},
    resolution=112,
)

_TOY = _small(
    vocab_size=640,
    language={
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "max_window_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_theta": 10000,
    },
    vision={"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2},
    resolution=112,
)

PRESETS: dict[str, dict[str, Any]] = {"toy": _TOY, "nano": _NANO, "4.0": _RELEASE_4_0, "4.5": _RELEASE_4_5}
