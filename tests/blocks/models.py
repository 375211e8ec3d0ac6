"""The parameters of real models, in less depth and width, and how an expert reads each. Written by hand.

A line is a path, a shape, and a letter for every axis: `r` is one of the rows, `c` one of the columns, `b` one of the
batch. A capital is on a side that gets no factor, and `-` says that the parameter has no view. A second shape is the
one in which it is read. A heading is the model and the sets of views that must read it so.
"""

__all__ = ["MODELS"]

MODELS = """
# llama, MaxText scanned: default maxtext
token_embedder/embedding                                512,64       -
decoder/decoder_norm/scale                              64           -
decoder/logits_dense/kernel                             64,512       -
decoder/layers/pre_self_attention_layer_norm/scale      64,6         -
decoder/layers/post_self_attention_layer_norm/scale     64,6         -
decoder/layers/self_attention/query/kernel              64,6,4,16    rbcc
decoder/layers/self_attention/key/kernel                64,6,2,16    rbcc
decoder/layers/self_attention/value/kernel              64,6,2,16    rbcc
decoder/layers/self_attention/out/kernel                4,6,16,64    rbrc
decoder/layers/mlp/wi_0/kernel                          64,6,172     rbc
decoder/layers/mlp/wi_1/kernel                          64,6,172     rbc
decoder/layers/mlp/wo/kernel                            172,6,64     rbc

# llama, MaxText not scanned: default flax maxtext
token_embedder/embedding                                512,64       -
decoder/decoder_norm/scale                              64           -
decoder/logits_dense/kernel                             64,512       -
decoder/layers_0/pre_self_attention_layer_norm/scale    64           -
decoder/layers_0/self_attention/query/kernel            64,4,16      rcc
decoder/layers_0/self_attention/key/kernel              64,2,16      rcc
decoder/layers_0/self_attention/value/kernel            64,2,16      rcc
decoder/layers_0/self_attention/out/kernel              4,16,64      rrc
decoder/layers_0/mlp/wi_0/kernel                        64,172       rc
decoder/layers_0/mlp/wi_1/kernel                        64,172       rc
decoder/layers_0/mlp/wo/kernel                          172,64       rc

# GPT-3, MaxText scanned with fused queries and biases: default maxtext
token_embedder/embedding                                512,64       -
position_embedder/embedding                             128,64       -
decoder/decoder_norm/scale                              64           -
decoder/decoder_norm/bias                               64           -
decoder/layers/pre_self_attention_norm/scale            64,6         -
decoder/layers/pre_self_attention_norm/bias             64,6         -
decoder/layers/self_attention/qkv_proj/kernel           64,6,3,4,16  rbbcc
decoder/layers/self_attention/qkv_proj/bias             3,6,4,16     -
decoder/layers/self_attention/out/kernel                4,6,16,64    rbrc
decoder/layers/self_attention/out/bias                  64,6         -
decoder/layers/mlp/mlp_layer_norm/scale                 64,6         -
decoder/layers/mlp/wi/kernel                            64,6,256     rbc
decoder/layers/mlp/wi/bias                              256,6        -
decoder/layers/mlp/wo/kernel                            256,6,64     rbc
decoder/layers/mlp/wo/bias                              64,6         -

# gemma3, MaxText scanned in blocks of layers with a remainder: default maxtext
token_embedder/embedding                                              512,64       -
decoder/decoder_norm/scale                                            64           -
decoder/layers/layers_0/pre_self_attention_norm/scale                 64,5         -
decoder/layers/layers_0/self_attention/query/kernel                   64,5,8,32    rbcc
decoder/layers/layers_0/self_attention/out/kernel                     8,5,32,64    rbrc
decoder/layers/layers_0/self_attention/query_norm/scale               32,5         -
decoder/layers/layers_0/mlp/wi_0/kernel                               64,5,256     rbc
decoder/layers/layers_1/pre_self_attention_norm/scale                 64,5         -
decoder/layers/layers_1/self_attention/key/kernel                     64,5,4,32    rbcc
decoder/layers/layers_1/mlp/wo/kernel                                 256,5,64     rbc
decoder/layers_remainder/layers_0/pre_self_attention_norm/scale       64           -
decoder/layers_remainder/layers_0/self_attention/query/kernel         64,8,32      rcc
decoder/layers_remainder/layers_0/self_attention/query_norm/scale     32           -
decoder/layers_remainder/layers_0/mlp/wo/kernel                       256,64       rc
vision_encoder/Gemma3VisionEncoderLayer_0/embedding/kernel            14,14,3,48   rrrc
vision_encoder/Gemma3VisionEncoderLayer_0/pos_embedding               1,256,48     -
vision_encoder/Gemma3VisionEncoderLayer_0/MultiHeadDotProductAttention_0/query/kernel  48,4,12  rcc
vision_encoder/Gemma3VisionEncoderLayer_0/MultiHeadDotProductAttention_0/query/bias    4,12     -

# qwen3 mixture of experts, MaxText scanned: default maxtext
token_embedder/embedding                                512,64       -
decoder/decoder_norm/scale                              64           -
decoder/logits_dense/kernel                             64,512       -
decoder/layers/pre_self_attention_layer_norm/scale      64,6         -
decoder/layers/self_attention/query/kernel              64,6,8,16    rbcc
decoder/layers/self_attention/query_norm/scale          16,6         -
decoder/layers/self_attention/key_norm/scale            16,6         -
decoder/layers/self_attention/out/kernel                8,6,16,64    rbrc
decoder/layers/moe_block/gate/kernel                    64,6,16      rbc
decoder/layers/moe_block/wi_0                           16,6,64,24   bbrc
decoder/layers/moe_block/wi_1                           16,6,64,24   bbrc
decoder/layers/moe_block/wo                             16,6,24,64   bbrc

# mixtral, MaxText not scanned: default flax maxtext
token_embedder/embedding                                512,64       -
decoder/logits_dense/kernel                             64,512       -
decoder/layers_0/pre_self_attention_layer_norm/scale    64           -
decoder/layers_0/self_attention/query/kernel            64,8,16      rcc
decoder/layers_0/self_attention/out/kernel              8,16,64      rrc
decoder/layers_0/MoeBlock_0/gate/kernel                 64,8         rc
decoder/layers_0/MoeBlock_0/wi_0                        8,64,224     brc
decoder/layers_0/MoeBlock_0/wi_1                        8,64,224     brc
decoder/layers_0/MoeBlock_0/wo                          8,224,64     brc

# gpt-oss, MaxText scanned: default maxtext
decoder/logits_dense/kernel                             64,4096      -
decoder/decoder_norm/scale                              64           -
decoder/layers/layers_0/pre_self_attention_layer_norm/scale     64,6         -
decoder/layers/layers_0/GptOssAttention/query/kernel    64,6,8,16    rbcc
decoder/layers/layers_0/GptOssAttention/query/bias      8,6,16       -
decoder/layers/layers_0/GptOssAttention/out/kernel      8,6,16,64    rbrc
decoder/layers/layers_0/GptOssAttention/out/bias        64,6         -
decoder/layers/layers_0/GptOssAttention/sinks           8,6          -
decoder/layers/layers_0/GptOssMlp/gate/kernel           64,6,32      rbc
decoder/layers/layers_0/GptOssMlp/gate/bias             32,6         -
decoder/layers/layers_0/GptOssMlp/wi_0                  32,6,64,48   bbrc
decoder/layers/layers_0/GptOssMlp/wi_0_bias             32,6,48      -
decoder/layers/layers_0/GptOssMlp/wo                    32,6,48,64   bbrc
decoder/layers/layers_0/GptOssMlp/wo_bias               32,6,64      -

# deepseek with latent attention, MaxText scanned: default maxtext
token_embedder/embedding                                               512,64       -
decoder/decoder_norm/scale                                             64           -
decoder/logits_dense/kernel                                            64,512       -
decoder/dense_layers/pre_self_attention_layer_norm/scale               64,3         -
decoder/dense_layers/self_attention/wq_a/kernel                        64,3,24      rbc
decoder/dense_layers/self_attention/q_norm/scale                       24,3         -
decoder/dense_layers/self_attention/wq_b/kernel                        24,3,4,12    rbcc
decoder/dense_layers/self_attention/wkv_a/kernel                       64,3,20      rbc
decoder/dense_layers/self_attention/kv_norm/scale                      16,3         -
decoder/dense_layers/self_attention/wkv_b/kernel                       16,3,4,16    rbcc
decoder/dense_layers/self_attention/out/kernel                         4,3,8,64     rbrc
decoder/dense_layers/mlp/wi_0/kernel                                   64,3,256     rbc
decoder/dense_layers/mlp/wo/kernel                                     256,3,64     rbc
decoder/moe_layers/pre_self_attention_layer_norm/scale                 64,5         -
decoder/moe_layers/self_attention/wkv_b/kernel                         16,5,4,16    rbcc
decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/kernel           64,5,32      rbc
decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/bias             32,5         -
decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wi_0                  32,5,64,24   bbrc
decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wo                    32,5,24,64   bbrc
decoder/moe_layers/DeepSeekMoeBlock_0/shared_experts/wi_0/kernel       64,5,24      rbc
decoder/moe_layers/DeepSeekMoeBlock_0/shared_experts/wo/kernel         24,5,64      rbc

# deepseek with latent attention, MaxText not scanned: default flax maxtext
decoder/dense_layers_0/pre_self_attention_layer_norm/scale             64           -
decoder/dense_layers_0/self_attention/wq_a/kernel                      64,24        rc
decoder/dense_layers_0/self_attention/wq_b/kernel                      24,4,12      rcc
decoder/dense_layers_0/self_attention/wkv_a/kernel                     64,20        rc
decoder/dense_layers_0/self_attention/wkv_b/kernel                     16,4,16      rcc
decoder/dense_layers_0/self_attention/out/kernel                       4,8,64       rrc
decoder/moe_layers_0/DeepSeekMoeBlock_0/MoeBlock_0/gate/kernel         64,32        rc
decoder/moe_layers_0/DeepSeekMoeBlock_0/MoeBlock_0/wi_0                32,64,24     brc
decoder/moe_layers_0/DeepSeekMoeBlock_0/shared_experts/wi_0/kernel     64,24        rc

# gemma, flax's nnx example: default flax
embedder/input_embedding                                512,64       -
layers/0/pre_attention_norm/scale                       64           -
layers/0/attn/q_einsum/kernel                           4,64,32      brc
layers/0/attn/kv_einsum/kernel                          2,4,64,32    bbrc
layers/0/attn/attn_vec_einsum/kernel                    4,32,64      rrc
layers/0/mlp/gate_proj/kernel                           64,128       rc
layers/0/mlp/up_proj/kernel                             64,128       rc
layers/0/mlp/down_proj/kernel                           128,64       rc
final_norm/scale                                        64           -

# gemma, big_vision scanned: default flax
embedder/input_embedding                                512,64       -
final_norm/scale                                        64           -
layers/pre_attention_norm/scale                         6,64         -
layers/attn/q_einsum/w                                  6,4,64,32    bbrc
layers/attn/kv_einsum/w                                 6,2,1,64,32  bbbrc
layers/attn/attn_vec_einsum/w                           6,4,32,64    brrc
layers/pre_ffw_norm/scale                               6,64         -
layers/mlp/gating_einsum                                6,2,64,256   bbrc
layers/mlp/linear                                       6,256,64     brc

# ViT, flax's example: default flax
cls                                                     1,1,48       -
embedding/kernel                                        16,16,3,48   rrrc
embedding/bias                                          48           -
Transformer/posembed_input/pos_embedding                1,197,48     -
Transformer/encoderblock_0/LayerNorm_0/scale            48           -
Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel  48,6,8   rcc
Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias    6,8      -
Transformer/encoderblock_0/MultiHeadDotProductAttention_1/out/kernel    6,8,48   rrc
Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel    48,192       rc
Transformer/encoderblock_0/MlpBlock_3/Dense_1/kernel    192,48       rc
Transformer/encoder_norm/scale                          48           -
head/kernel                                             48,1000      rc

# ViT, big_vision with scan: default flax
embedding/kernel                                        16,16,3,48   rrrc
embedding/bias                                          48           -
pos_embedding                                           1,196,48     -
MAPHead_0/probe                                         1,1,48       -
MAPHead_0/MultiHeadDotProductAttention_0/query/kernel   48,6,8       rcc
MAPHead_0/MultiHeadDotProductAttention_0/query/bias     6,8          -
MAPHead_0/LayerNorm_0/scale                             48           -
Transformer/encoder_norm/scale                          48           -
Transformer/encoderblock/LayerNorm_0/scale              12,48        -
Transformer/encoderblock/LayerNorm_0/bias               12,48        -
Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel    12,48,6,8  brcc
Transformer/encoderblock/MultiHeadDotProductAttention_0/query/bias      12,6,8     -
Transformer/encoderblock/MultiHeadDotProductAttention_0/out/kernel      12,6,8,48  brrc
Transformer/encoderblock/MultiHeadDotProductAttention_0/out/bias        12,48      -
Transformer/encoderblock/MlpBlock_0/Dense_0/kernel      12,48,192    brc
Transformer/encoderblock/MlpBlock_0/Dense_0/bias        12,192       -
Transformer/encoderblock/MlpBlock_0/Dense_1/kernel      12,192,48    brc
head/kernel                                             48,1000      rc

# a stack of dense layers, linen's nn.scan and nnx.vmap, without norms: default flax
layers/Dense_0/kernel                                   6,64,128     brc
layers/Dense_0/bias                                     6,128        -
layers/Dense_1/kernel                                   6,128,64     brc
layers/attention/query/kernel                           6,64,4,16    brcc
layers/attention/out/kernel                             6,4,16,64    brrc
layers/conv_block/Conv_0/kernel                         6,3,3,64,32  brrrc
layers/conv_block/Conv_0/bias                           6,32         -

# an ensemble under vmap of attention and convolution: default flax
backbone/kernel                                         5,3,3,8,16   brrrc
backbone/bias                                           5,16         -
attention/query/kernel                                  5,16,2,8     brcc
attention/query/bias                                    5,2,8        -
head/kernel                                             5,16,10      brc
head/bias                                               5,10         -

# ResNet, flax's imagenet: default flax
conv_init/kernel                                        7,7,3,64     rrrc
bn_init/scale                                           64           -
BottleneckResNetBlock_0/Conv_0/kernel                   1,1,64,64    rrrc
BottleneckResNetBlock_0/Conv_1/kernel                   3,3,64,64    rrrc
BottleneckResNetBlock_0/BatchNorm_0/scale               64           -
BottleneckResNetBlock_0/conv_proj/kernel                1,1,64,256   rrrc
BottleneckResNetBlock_0/norm_proj/bias                  256          -
Dense_0/kernel                                          256,1000     rc

# ConvNeXt and MobileNet, linen: default flax
stem/kernel                                             4,4,3,96     rrrc
stages_0/block_0/dwconv/kernel                          7,7,1,96     -
stages_0/block_0/pwconv1/kernel                         96,384       rc
stages_0/block_0/gamma                                  96           -
stages_0/depthwise/kernel                               3,3,1,32     -
stages_0/downsample/kernel                              2,2,96,192   rrrc

# LeNet on grey images: default flax
Conv_0/kernel                                           5,5,1,6      rrrc
Conv_1/kernel                                           5,5,6,16     rrrc
Dense_0/kernel                                          256,120      rc

# UNet of a diffusion model, flax: default flax
conv_in/kernel                                          3,3,4,32     rrrc
time_embedding/linear_1/kernel                          32,128       rc
down_blocks_0/resnets_0/conv1/kernel                    3,3,32,32    rrrc
down_blocks_0/resnets_0/time_emb_proj/kernel            128,32       rc
down_blocks_0/resnets_0/norm1/scale                     32           -
down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q/kernel       32,32    rc
down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_out_0/kernel   32,32    rc
down_blocks_0/attentions_0/proj_in/kernel               1,1,32,32    rrrc
down_blocks_0/downsamplers_0/conv/kernel                3,3,32,32    rrrc
conv_out/kernel                                         3,3,32,4     rrrc

# BERT, transformers in flax: default flax
bert/embeddings/word_embeddings/embedding               512,64       -
bert/embeddings/position_embeddings/embedding           128,64       -
bert/embeddings/token_type_embeddings/embedding         2,64         -
encoder/sinusoids                                       128,64       -
bert/embeddings/LayerNorm/scale                         64           -
bert/encoder/layer/0/attention/self/query/kernel        64,64        rc
bert/encoder/layer/0/attention/output/dense/kernel      64,64        rc
bert/encoder/layer/0/intermediate/dense/kernel          64,256       rc
bert/encoder/layer/0/output/dense/kernel                256,64       rc
bert/pooler/dense/kernel                                64,64        rc
cls/predictions/transform/dense/kernel                  64,64        rc
cls/predictions/bias                                    512          -
cls/predictions/decoder/kernel                          64,512       -

# T5, t5x: default flax
token_embedder/embedding                                512,64       -
encoder/relpos_bias/rel_embedding                       4,32         -
encoder/layers_0/pre_attention_layer_norm/scale         64           -
encoder/layers_0/attention/query/kernel                 64,64        rc
encoder/layers_0/attention/out/kernel                   64,64        rc
encoder/layers_0/mlp/wi_0/kernel                        64,160       rc
encoder/layers_0/mlp/wo/kernel                          160,64       rc
decoder/logits_dense/kernel                             64,512       -

# T5, t5x scanned along axis 1: default
token_embedder/embedding                                512,64       -
encoder/relpos_bias/rel_embedding                       4,32         -
encoder/encoder_norm/scale                              64           -
encoder/encoder/pre_attention_layer_norm/scale          64,6         -
encoder/encoder/attention/query/kernel                  64,6,64      rbc
encoder/encoder/attention/out/kernel                    64,6,64      rbc
encoder/encoder/mlp/wi_0/kernel                         64,6,160     rbc
encoder/encoder/mlp/wo/kernel                           160,6,64     rbc

# Whisper, transformers in flax: default flax
model/encoder/conv1/kernel                              3,80,64      rrc
model/encoder/conv2/kernel                              3,64,64      rrc
model/encoder/embed_positions/embedding                 150,64       -
model/encoder/layers/0/self_attn/q_proj/kernel          64,64        rc
model/encoder/layers/0/self_attn/out_proj/kernel        64,64        rc
model/encoder/layers/0/fc1/kernel                       64,256       rc
model/decoder/embed_tokens/embedding                    512,64       -
model/decoder/layers/0/encoder_attn/k_proj/kernel       64,64        rc

# lm1b, flax's example: default flax
shared_embedding/embedding                              512,64       -
decoder/encoderdecoderblock_0/MultiHeadDotProductAttention_0/query/kernel   64,4,16   rcc
decoder/encoderdecoderblock_0/MultiHeadDotProductAttention_0/out/kernel     4,16,64   rrc
decoder/encoderdecoderblock_0/MlpBlock_0/Dense_0/kernel 64,256       rc
decoder/logitdense/kernel                               64,512       -

# GPT-2, transformers in PyTorch as a flat dictionary: default torch
transformer.wte.weight                                  512,64       -
transformer.wpe.weight                                  128,64       -
transformer.h.0.ln_1.weight                             64           -
transformer.h.0.attn.c_attn.weight                      64,192       rbc    64,3,64
transformer.h.0.attn.c_attn.bias                        192          -
transformer.h.0.attn.c_proj.weight                      64,64        rc
transformer.h.0.mlp.c_fc.weight                         64,256       rc
transformer.h.0.mlp.c_proj.weight                       256,64       rc
transformer.ln_f.weight                                 64           -
lm_head.weight                                          512,64       -

# llama, transformers in PyTorch: default torch
model/embed_tokens/weight                               512,64       -
model/layers/0/self_attn/q_proj/weight                  64,64        rc
model/layers/0/self_attn/k_proj/weight                  32,64        rc
model/layers/0/self_attn/o_proj/weight                  64,64        rc
model/layers/0/mlp/gate_proj/weight                     172,64       rc
model/layers/0/mlp/down_proj/weight                     64,172       rc
model/layers/0/input_layernorm/weight                   64           -
model/norm/weight                                       64           -
lm_head/weight                                          512,64       -

# ViT of timm and torch.nn's attention: default torch
cls_token                                               1,1,48       -
pos_embed                                               1,197,48     -
patch_embed/proj/weight                                 48,3,16,16   rccc
patch_embed/proj/bias                                   48           -
blocks/0/attn/qkv/weight                                144,48       brc    3,48,48
blocks/0/attn/proj/weight                               48,48        rc
blocks/0/mlp/fc1/weight                                 192,48       rc
blocks/0/ls1/gamma                                      48           -
encoder/self_attn/in_proj_weight                        144,48       brc    3,48,48
encoder/self_attn/in_proj_bias                          144          -
encoder/self_attn/out_proj/weight                       48,48        rc
swin/relative_position_bias_table                       169,4        -

# ResNet and depthwise convolutions of PyTorch: default torch
conv1/weight                                            64,3,7,7     rccc
bn1/weight                                              64           -
layer1/0/conv1/weight                                   64,64,1,1    rccc
layer1/0/conv2/weight                                   64,64,3,3    rccc
layer1/0/downsample/0/weight                            256,64,1,1   rccc
features/dwconv/weight                                  32,1,3,3     -
fc/weight                                               1000,256     rc

# LSTM and GRU of PyTorch: default torch
lstm/weight_ih_l0                                       128,20       brc    4,32,20
lstm/weight_hh_l0                                       128,32       brc    4,32,32
lstm/bias_ih_l0                                         128          -
lstm/bias_hh_l0                                         128          -
gru/weight_ih_l0                                        96,20        brc    3,32,20
gru/weight_hh_l0                                        96,32        brc    3,32,32
rnn/weight_ih_l0                                        32,20        rc
rnn/weight_hh_l0                                        32,32        rc
encoder/weight_ih_l1_reverse                            96,64        brc    3,32,64
encoder/weight_hh_l1_reverse                            96,32        brc    3,32,32

# Mamba of PyTorch: default torch
backbone/embedding/weight                               512,64       -
backbone/layers/0/mixer/in_proj/weight                  256,64       rc
backbone/layers/0/mixer/conv1d/weight                   128,1,4      -
backbone/layers/0/mixer/conv1d/bias                     128          -
backbone/layers/0/mixer/x_proj/weight                   36,128       rc
backbone/layers/0/mixer/dt_proj/weight                  128,4        rc
backbone/layers/0/mixer/A_log                           128,16       -
backbone/layers/0/mixer/D                               128          -
backbone/layers/0/mixer/out_proj/weight                 64,128       rc
backbone/layers/0/norm/weight                           64           -

# Mamba and S4, flax: default flax
layers_0/mixer/in_proj/kernel                           64,256       rc
layers_0/mixer/conv1d/kernel                            4,1,128      -
layers_0/mixer/x_proj/kernel                            128,36       rc
layers_0/mixer/A_log                                    128,16       -
layers_0/mixer/D                                        128          -
s4/B                                                    256,64,2     -
s4/C                                                    256,64,2     -
s4/log_step                                             256,1        -
s4/A_re                                                 256,64       -
s5/Lambda_re                                            64           -

# RWKV of PyTorch: default torch
emb/weight                                              512,64       -
blocks/0/ln0/weight                                     64           -
blocks/0/att/time_decay                                 4,16         -
blocks/0/att/time_first                                 64           -
blocks/0/att/time_faaaa                                 4,16         -
blocks/0/att/time_mix_k                                 1,1,64       -
blocks/0/att/time_maa_w1                                64,160       rc
blocks/0/att/time_maa_w2                                5,32,64      brc
blocks/0/att/key/weight                                 64,64        rc
blocks/0/att/receptance/weight                          64,64        rc
blocks/0/att/output/weight                              64,64        rc
blocks/0/att/ln_x/weight                                64           -
blocks/0/ffn/key/weight                                 256,64       rc
head/weight                                             512,64       rc

# LSTM and GRU, linen: default flax
OptimizedLSTMCell_0/ii/kernel                           20,32        rc
OptimizedLSTMCell_0/hi/kernel                           32,32        rc
OptimizedLSTMCell_0/hi/bias                             32           -
GRUCell_0/in/kernel                                     20,32        rc
GRUCell_0/hn/kernel                                     32,32        rc
OptimizedLSTMCell_stack/ii/kernel                       3,20,32      brc
OptimizedLSTMCell_stack/hi/kernel                       3,32,32      brc
OptimizedLSTMCell_stack/hi/bias                         3,32         -

# Keras in JAX: default flax
gru/gru_cell/kernel                                     20,96        rbc    20,3,32
gru/gru_cell/recurrent_kernel                           32,96        rbc    32,3,32
gru/gru_cell/bias                                       2,96         -
embedding/embeddings                                    512,64       -
batch_normalization/gamma                               64           -
conv2d/kernel                                           3,3,3,64     rrrc
depthwise_conv2d/kernel                                 3,3,64,1     -

# Recurrent cells written by hand, of bare arrays: default flax
lstm/w_ih                                               20,128       rbc    20,4,32
lstm/w_hh                                               32,128       rbc    32,4,32
gru/Wi                                                  20,96        rbc    20,3,32
gru/Wh                                                  32,96        rbc    32,3,32
deep/W_ih_0                                             20,128       rbc    20,4,32
deep/W_hh_0                                             32,128       rbc    32,4,32
deep/W_ih_1                                             32,128       rbc    32,4,32
deep/W_hh_1                                             32,128       rbc    32,4,32
theano/W                                                20,96        rbc    20,3,32
theano/U                                                32,96        rbc    32,3,32
outputs_first/W_xh                                      96,20        brc    3,32,20
outputs_first/W_hh                                      96,32        brc    3,32,32
fields/kernel_x                                         20,128       rbc    20,4,32
fields/kernel_h                                         32,128       rbc    32,4,32
modules/x2h/kernel                                      20,96        rbc    20,3,32
modules/h2h/kernel                                      32,96        rbc    32,3,32
elman/w_ih                                              20,32        rc
elman/w_hh                                              32,32        rc
perceptron/w_i                                          20,128       rc
perceptron/w_o                                          128,20       rc

# LSTM of one matrix, inputs above hidden state: default haiku
model/lstm/w                                         52,128       rbc    52,4,32
model/lstm/b                                         128          -
lstm_net/out/w                                       52,64        rc

# xLSTM in Flax: default flax
blocks_0/xlstm/igate/kernel                             192,4        rc
blocks_0/xlstm/fgate/kernel                             192,4        rc
blocks_0/xlstm/conv1d/kernel                            4,1,128      -
blocks_0/xlstm/proj_up/kernel                           64,256       rc
blocks_1/xlstm/slstm_cell/_recurrent_kernel_            4,16,64      brbc   4,16,4,16
blocks_1/xlstm/slstm_cell/bias                          4,4,16       -
blocks_2/xlstm/slstm_cell/recurrent_kernel              4,16,4,16    brbc

# Keras 2, variables with the number of an output: default flax
lstm/lstm_cell/kernel:0                                 20,128       rbc    20,4,32
lstm/lstm_cell/recurrent_kernel:0                       32,128       rbc    32,4,32
lstm/lstm_cell/bias:0                                   128          -
dense/kernel:0                                          64,32        rc

# LoRA, nnx and MaxText: default flax
layers/0/q_proj/lora_a                                  64,8         Rc
layers/0/q_proj/lora_b                                  8,64         rC
layers/0/q_proj/kernel                                  64,64        rc
query/lora_a/kernel                                     64,8         Rc
query/lora_b/kernel                                     8,4,16       rCC
out/lora_a/kernel                                       4,16,8       RRc
out/lora_b/kernel                                       8,64         rC
scanned/dense/lora_a                                    6,64,8       bRc
scanned/dense/lora_b                                    6,8,128      brC

# LoRA, peft: default torch
model/layers/0/self_attn/q_proj/lora_A/default/weight   8,64         rC
model/layers/0/self_attn/q_proj/lora_B/default/weight   64,8         Rc
model/layers/0/self_attn/q_proj/base_layer/weight       64,64        rc

# Equinox: default equinox
layers/0/weight                                         128,64,3,3   rccc
layers/0/bias                                           128,1,1      -
layers/1/weight                                         32,64        rc
embedding/weight                                        512,64       -
norm/weight                                             8,8          -
norm/bias                                               8,8          -
anything/weight                                         8,9          -
anything/bias                                           8,9          -
attention/query_proj/weight                             64,64        rc
attention/output_proj/weight                            64,64        rc
cell/weight_ih                                          96,20        brc    3,32,20
cell/weight_hh                                          96,32        brc    3,32,32
cell/bias_n                                             32           -
conv1d/weight                                           64,32,5      rcc
conv1d/bias                                             64,1         -
stacked/mlp/layers/0/weight                             6,128,64     brc
stacked/mlp/layers/0/bias                               6,128        -
stacked/attention/query_proj/weight                     6,64,64      brc
stacked/norm/weight                                     6,64         -

# Haiku: default haiku
embed/embeddings                                        512,64       -
mlp/~/linear_0/w                                        64,128       rc
mlp/~/linear_0/b                                        128          -
conv2_d/w                                               3,3,64,128   rrrc
depthwise_conv2_d/w                                     3,3,1,64     -
batch_norm/scale                                        1,1,1,128    -
layer_norm/offset                                       64           -
multi_head_attention/query/w                            64,64        rc
gru/w_i                                                 20,96        rbc    20,3,32
gru/w_h                                                 32,96        rbc    32,3,32
gru/b                                                   96           -
lstm/linear/w                                           52,128       rbc    52,4,32
lstm/linear/b                                           128          -
__layer_stack_no_per_layer/linear/w                     6,64,128     brc
__layer_stack_no_per_layer/linear/b                     6,128        -

# a transformer in plain JAX: default flax
wte                                                     512,64       -
wpe                                                     128,64       -
blocks/0/wqkv                                           64,192       rbc    64,3,64
blocks/0/w_up                                           64,256       rc
blocks/0/w_down                                         256,64       rc
experts/w1                                              8,64,256     brc
attention/wq                                            64,4,16      rcc
lm_head                                                 64,512       -

# fused kernels, linen: default flax
attention/qkv/kernel                                    64,192       rbc    64,3,64
attention/qkv_proj/kernel                               64,3,4,16    rbcc
attention/kv/kernel                                     64,256       rbc    64,2,128
mlp/gate_up_proj/kernel                                 64,256       rbc    64,2,128
grouped/qkv_proj/kernel                                 64,96        rc
stack/norm/scale                                        12,64        -
stack/attn/qkv/kernel                                   12,64,192    brbc   12,64,3,64
einsum/kernel                                           64,4,16      rcc
multi_out/kernel                                        64,2,5       rcc
multi_out/bias                                          2,5          -

# GPT-2, transformers in flax, whose kernels are [outputs, inputs]: default flax
transformer/wte/embedding                               512,64       -
transformer/h/0/ln_1/scale                              64           -
transformer/h/0/attn/c_attn/kernel                      192,64       brc    3,64,64
transformer/h/0/attn/c_proj/kernel                      64,64        rc
transformer/h/0/mlp/c_fc/kernel                         256,64       rc

# llama, EasyLM scanned, whose norms are kernels: default flax
transformer/wte/embedding                               512,64       -
transformer/ln_f/kernel                                 64           -
transformer/h/attention_norm/kernel                     6,64         -
transformer/h/attention/wq/kernel                       6,64,64      brc
transformer/h/attention/wo/kernel                       6,64,64      brc
transformer/h/feed_forward/w1/kernel                    6,64,172     brc
lm_head/kernel                                          64,512       -

# llama, MaxText scanned along axis 0, seen without its norms: default flax
decoder/layers/self_attention/query/kernel              6,64,4,16    brcc
decoder/layers/self_attention/out/kernel                6,4,16,64    brrc
decoder/layers/mlp/wi_0/kernel                          6,64,172     brc
decoder/layers/mlp/wo/kernel                            6,172,64     brc
decoder/layers/MoeBlock_0/wi_0                          6,8,64,172   bbrc

# llama, MaxText scanned, seen without its norms: maxtext
decoder/layers/self_attention/query/kernel              64,6,4,16    rbcc
decoder/layers/self_attention/out/kernel                4,6,16,64    rbrc
decoder/layers/mlp/wi/kernel                            64,6,2,172   rbbc
decoder/layers/mlp/wo/kernel                            172,6,64     rbc
decoder/layers/MoeBlock_0/wi_0                          8,6,64,172   bbrc
decoder/layers/delta_net/in_proj_qkvz/kernel            64,6,512     rbc
decoder/layers/delta_net/conv1d/kernel                  4,6,1,512    -
decoder/layers/delta_net/A_log                          16,6         -
vision_encoder/conv/kernel                              14,14,3,64   rrrc

# cells of nnx, with their gates side by side: default flax
gru/dense_i/kernel                                      20,96        rbc    20,3,32
gru/dense_h/kernel                                      32,96        rbc    32,3,32
lstm/dense_i/kernel                                     20,128       rbc    20,4,32
lstm/dense_h/kernel                                     32,128       rbc    32,4,32
simple/dense_i/kernel                                   20,32        rc
simple/dense_h/kernel                                   32,32        rc

# BERT, transformers in flax scanned, seen without its norms: default flax
encoder/layers/attention/self/query/kernel              12,64,64     brc
encoder/layers/attention/output/dense/kernel            12,64,64     brc
encoder/layers/output/dense/kernel                      12,256,64    brc

# attention and projections with biases and names of their own: default flax
block/project/kernel                                    4,16,64      rrc
block/project/bias                                      64           -
block/split/kernel                                      64,4,16      rcc
block/split/bias                                        4,16         -
temporal/filter/kernel                                  5,64,32      rrc
temporal/filter/bias                                    32           -

# convolutions without a kernel's name: default flax
stem                                                    7,7,3,64     rrrc
body/w                                                  3,3,64,128   rrrc
foreign/filters                                         64,32,3,3    rccc
foreign/kernel                                          128,64,3,3   rccc

# a mixer of PyTorch, and tables under other names: default torch
blocks/0/mlp_tokens/fc1/weight                          98,196       rc
blocks/0/token_mixing/weight                            196,196      rc
tok_emb/weight                                          512,64       -
item_embedding/weight                                   512,64       -
register_tokens                                         1,4,64       -
rel_pos_h                                               27,16        -
positional_encoding                                     128,64       -
time_embed/0/weight                                     256,64       rc
vq/codebook                                             512,64       -

# MaxText scanned, whose norms are hidden by a mask, where axis 0 is the longer one: default flax maxtext
decoder/layers/self_attention/query/kernel              64,6,4,16    rbcc
decoder/layers/self_attention/wkv_b/kernel              16,6,4,12    rbcc
decoder/layers/mlp/wi_0/kernel                          64,6,172     rbc
decoder/layers/mlp/wo/kernel                            172,6,64     rbc
decoder/layers/MoeBlock_0/gate/kernel                   64,6,16      rbc

# LoRA by other names, and projections to heads: default flax
adapter/a                                               4096,8       Rc
adapter/b                                               8,4096       rC
plain/w                                                 64,32        rc
plain/b                                                 2,32         -
toy/a                                                   9,4          rc
toy/b                                                   4,9          rc
toy/A                                                   9,4          rc
anything/kernel                                         64,4,16      rcc
attention/wq_b/kernel                                   512,16,256   rcc

# Griffin, whose filters have no axis of inputs, and RG-LRU: default flax
blocks/0/recurrent_block/conv_1d/w                      4,64         -
blocks/0/recurrent_block/conv_1d/b                      64           -
blocks/0/recurrent_block/linear_x/kernel                48,64        rc
blocks/0/recurrent_block/rg_lru/a_gate/w                4,16,16      brc
blocks/0/recurrent_block/rg_lru/a_gate/b                4,16         -
blocks/0/recurrent_block/rg_lru/a_param                 64           -
blocks/0/mlp_block/ffw_up/w                             2,48,192     brc
blocks/0/mlp_block/ffw_down/kernel                      192,48       rc

# an ensemble of Haiku's cells under vmap: default haiku
gru/w_i                                                 5,20,96      brbc   5,20,3,32
gru/w_h                                                 5,32,96      brbc   5,32,3,32
gru/b                                                   5,96         -
lstm/linear/w                                           5,52,128     brbc   5,52,4,32
lstm/linear/b                                           5,128        -

# a depthwise filter of PyTorch without an axis of inputs: default torch
mixer/conv1d/weight                                     96,4         -
pwconv1/weight                                          384,96       rc

# a diffusion transformer, linen: default flax
x_embedder/proj/kernel                                  2,2,4,64     rrrc
t_embedder/mlp_0/kernel                                 256,64       rc
y_embedder/embedding_table/embedding                    11,64        -
pos_embed                                               1,256,64     -
blocks_0/adaLN_modulation/kernel                        64,384       rc
blocks_0/attn/qkv/kernel                                64,192       rbc    64,3,64
final_layer/linear/kernel                               64,32        rc

# attention whose weights are leaves: default flax
attention/wq                                            64,4,16      rcc
attention/wo                                            4,16,64      rrc
block/attn/o                                            4,16,64      rrc
block/attn/out_proj                                     4,16,64      rrc
block/attn/w_o                                          4,16,64      rrc
layers/wq                                               6,64,4,16    brcc
layers/wo                                               6,4,16,64    brrc
experts/wo                                              8,48,64      brc
mla/w_uk                                                16,4,8       rcc
mla/w_uv                                                16,4,8       rcc
mla/w_uq                                                16,4,8       rcc

# a stack of plain layers, whose norms and biases are leaves: default flax
layers/attn_norm                                        6,64         -
layers/ln1                                              6,64         -
layers/norm_1                                           6,64         -
layers/input_layernorm                                  6,64         -
layers/gain                                             6,64         -
layers/g                                                6,64         -
layers/ls1                                              6,64         -
layers/w_in                                             6,64,256     brc
layers/b_in                                             6,256        -
layers/b1                                               6,256        -
layers/wq                                               6,64,4,16    brcc
layers/bq                                               6,4,16       -
layers/qkv_b                                            6,4,16       -
layers/biases                                           6,64         -
layers/D                                                6,64         -
layers/a_param                                          6,64         -
layers/temperature                                      6,64         -
layers/lambda_q1                                        6,64         -
layers/skip_weight                                      6,64         -

# a stack of pairs, and of capital letters: default flax
mlp/0/0                                                 6,64,16      brc
mlp/0/1                                                 6,16         -
dense/W                                                 6,64,16      brc
dense/b                                                 6,16         -

# matrices of one layer beside tensors that share an axis with them: default flax
attention/wq                                            64,4,16      rcc
attention/dense                                         64,64        rc
moe/router                                              64,8         rc
moe/up                                                  8,64,128     brc
stacked/up                                              6,64,128     brc
stacked/experts_up                                      6,8,64,128   bbrc

# tables by yet other names: default flax
positional_embedding_vlm                                64,16        -
pos_emb_x                                               64,16        -
pos_embedding_h                                         64,16        -
pos_embed_2d                                            64,16        -
rpb                                                     4,169        -
position                                                64,16        -
positions                                               64,16        -
embedding_matrix                                        512,64       -
embed_w                                                 512,64       -
vocab/embed_matrix                                      512,64       -
wte/kernel                                              512,64       -
embed_tokens/kernel                                     512,64       -
E                                                       512,64       -
codebooks                                               4,512,64     -
prompt                                                  20,64        -
prefix                                                  20,64        -
queries                                                 100,64       -

# stacks without norms and biases: default flax
anything/kernel                                         12,64,64     brc

# queries of a stack in Haiku: haiku
q/w                                                     6,64,64      brc
conv1_d/w                                               6,64,64      rrc

# an ensemble of Equinox's layers with more members than outputs, and a convolution: default torch
linear/weight                                           16,10,128    brc
linear/bias                                             16,10        -
stem/weight                                             3,64,5       rcc
stem/bias                                               3,1          -

# LoRA by yet other names: default flax
query/lora_down/kernel                                  64,4         Rc
query/lora_up/kernel                                    4,64         rC
key/lora_a_kernel                                       64,4         Rc
value/lora_A_weight                                     4,64         rC
scanned/query/lora_down/kernel                          6,64,4       bRc
scanned/query/lora_up/kernel                            6,4,64       brC
scanned/key/lora_a_kernel                               6,64,4       bRc
scanned/key/lora_b_kernel                               6,4,64       brC

# MaxText in stages of a pipeline, layers scanned along the second axis of each: default
decoder/pipeline/layers/norm/scale                      4,64,8       -
decoder/pipeline/layers/self_attention/query/kernel     4,64,8,4,16  brbcc
decoder/pipeline/layers/self_attention/out/kernel       4,4,8,16,64  brbrc
decoder/pipeline/layers/mlp/wi_0/kernel                 4,64,8,256   brbc

# AlphaFold, Haiku, whose weights of attention are leaves: default haiku
evoformer/attention/query_w                             64,4,16      rcc
evoformer/attention/query_b                             4,16         -
evoformer/attention/key_w                               64,4,16      rcc
evoformer/attention/value_w                             64,4,16      rcc
evoformer/attention/gating_w                            64,4,16      rcc
evoformer/attention/gating_b                            4,16         -
evoformer/attention/output_w                            4,16,64      rrc
evoformer/attention/output_b                            64           -
evoformer/attention_global/key_w                        64,16        rc
evoformer/attention_global/gating_w                     64,4,16      rcc
evoformer/attention_global/gating_b                     4,16         -
stack/attention/query_norm/scale                        12,64        -
stack/attention/query_w                                 12,64,4,16   brcc
stack/attention/gating_w                                12,64,4,16   brcc
stack/attention/gating_b                                12,4,16      -
stack/attention/output_w                                12,4,16,64   brrc
stack/attention/output_b                                12,64        -
stack/transition/w                                      12,64,256    brc
stack/transition/b                                      12,256       -

# AlphaFold stacked, without norms: default flax haiku
evoformer/attention/query_w                             48,256,8,32  brcc
evoformer/attention/gating_w                            48,256,8,32  brcc
evoformer/attention/gating_b                            48,8,32      -
evoformer/attention/output_w                            48,8,32,256  brrc

# AlphaFold stacked, with fewer channels than layers: default haiku
evoformer/attention/query_w                             48,32,4,8    brcc
evoformer/attention/key_w                               48,32,8      brc
evoformer/attention/gating_w                            48,32,4,8    brcc
evoformer/attention/gating_b                            48,4,8       -
evoformer/attention/output_w                            48,4,8,32    brrc
evoformer/attention/output_b                            48,32        -

# gemma with LoRA, openpi scanned: default flax
layers/pre_attention_norm/scale                         6,64         -
layers/attn/q_einsum/w                                  6,4,64,32    bbrc
layers/attn/q_einsum/lora_a                             6,4,64,4     bbRc
layers/attn/q_einsum/lora_b                             6,4,4,32     bbrC
layers/attn/kv_einsum/w                                 6,2,1,64,32  bbbrc
layers/attn/kv_einsum/lora_a                            6,2,1,64,4   bbbRc
layers/attn/kv_einsum/lora_b                            6,2,1,4,32   bbbrC
layers/attn/attn_vec_einsum/w                           6,4,32,64    brrc
layers/attn/attn_vec_einsum/lora_a                      6,4,32,4     bbRc
layers/attn/attn_vec_einsum/lora_b                      6,4,4,64     bbrC
layers/mlp/gating_einsum                                6,2,64,256   bbrc
layers/mlp/gating_einsum_lora_a                         6,2,64,4     bbRc
layers/mlp/gating_einsum_lora_b                         6,2,4,256    bbrC
layers/mlp/linear                                       6,256,64     brc
layers/mlp/linear_lora_a                                6,256,4      bRc
layers/mlp/linear_lora_b                                6,4,64       brC

# LoRA of einsums and of PyTorch, stacked, without norms: default
einsum/gating_einsum_lora_a                             18,2,64,16   bbRc
einsum/gating_einsum_lora_b                             18,2,16,256  bbrC
einsum/kv_einsum/lora_a                                 18,2,1,64,16 bbbRc
einsum/kv_einsum/lora_b                                 18,2,1,16,32 bbbrC
unstacked/q_einsum/lora_a                               8,64,4       bRc
unstacked/q_einsum/lora_b                               8,4,32       brC
scanned/wi/kernel                                       64,6,128     rbc
scanned/wi/lora_a                                       64,6,4       Rbc
scanned/wi/lora_b                                       4,6,128      rbC
second/lora_a                                           64,8,6       Rcb
second/lora_b                                           8,128,6      rCb
torch/q_proj/lora_A/weight                              6,8,64       brC
torch/q_proj/lora_B/weight                              6,64,8       bRc

# lorax, whose pairs are beside the weight: default flax haiku torch
dense/kernel/w                                          4096,2048    rc
dense/kernel/a                                          8,2048       rC
dense/kernel/b                                          4096,8       Rc
stacked/kernel/a                                        6,8,512      brC
stacked/kernel/b                                        6,512,8      bRc

# deepseek v2 lite, MaxText with one dense layer scanned: default maxtext
decoder/decoder_norm/scale                                             64           -
decoder/dense_layers/pre_self_attention_layer_norm/scale               64,1         -
decoder/dense_layers/self_attention/query/kernel                       64,1,4,16    rbcc
decoder/dense_layers/self_attention/wkv_b/kernel                       16,1,4,16    rbcc
decoder/dense_layers/self_attention/out/kernel                         4,1,16,64    rbrc
decoder/dense_layers/mlp/wi_0/kernel                                   64,1,256     rbc
decoder/dense_layers/mlp/wo/kernel                                     256,1,64     rbc

# one layer, linen's nn.scan: default flax
layers/norm/scale                                       1,64         -
layers/attention/query/kernel                           1,64,4,16    brcc
layers/attention/out/kernel                             1,4,16,64    brrc
layers/conv/kernel                                      1,3,3,8,16   brrrc
layers/mlp/kernel                                       1,64,128     brc
layers/mlp/bias                                         1,128        -

# one layer without norms, and a batch norm of Haiku beside a convolution of one pixel: default
decoder/layers/self_attention/out/kernel                16,1,128,2048  rbrc
block/conv2_d/w                                         1,1,64,128   rrrc
block/batch_norm/scale                                  1,1,1,128    -
block/batch_norm/offset                                 1,1,1,128    -

# Fourier neural operators: default flax
blocks/0/spectral_conv/real_weights                     64,64,16     rcb
blocks/0/spectral_conv/imag_weights                     64,64,16     rcb
SpectralConv2d_0/kernel_real                            32,32,12,12  rcbb
SpectralConv2d_0/kernel_imag                            32,32,12,12  rcbb
fourier_layer/kernel                                    32,32,3,3    rcbb
fourier_layer/weight_real                               32,32,3,3    rcbb
fourier_layer/w                                         32,32,12     rcb
SpectralConv2d_1/kernel                                 32,32,12,2   -
SpectralConv2d_2/kernel                                 4,4,64,64    -
SpectralNorm_0/layer_instance/kernel                    3,3,32,64    rrrc
spectral_norm/kernel                                    3,3,32,64    -
fourier_features/kernel                                 2,64         rc
spectral/kernel                                         3,3,16,32    rrrc
fourier_block/Conv_0/kernel                             1,1,32,64    rrrc

# leaves one level down, Haliax and others: default torch
transformer/wte/weight                                  512,64       -
layers/0/ln_1/weight                                    6,64         -
layers/0/attn/c_attn/weight                             192,64       brc    3,64,64
layers/0/attn/c_proj/weight                             64,64        rc
layers/0/mlp/c_fc/weight                                256,64       rc
layers/0/mlp/c_fc/bias                                  6,256        -
embeddings/token_embeddings                             512,64       -
conv/weight                                             64,32,3,3    rccc

# leaves one level down, stacked: default flax
layers/mlp/kernel                                       6,64,128     brc
layers/mlp/bias                                         6,128        -

# a perceptron whose layers are called as those of a cell: default flax
input_to_hidden/kernel                                  784,128      rc
hidden_to_hidden/kernel                                 128,256      rc
other/ih/kernel                                         64,64        rc
other/hh/kernel                                         64,256       rc

# a convolution and a projection that are called Fourier's: default flax
fourier_conv/kernel                                     5,32,64      rrc
fourier_conv/bias                                       64           -
spectral_mlp/kernel                                     64,4,16      rcc
spectral_mlp/bias                                       4,16         -

# layers of attention with a single head: default flax
layers/query_w                                          6,128,64     brc
layers/key_w                                            6,128,64     brc
layers/value_w                                          6,128,64     brc
layers/output_w                                         6,64,128     brc

# convolutional LSTMs, and gates of heads: default flax
ConvLSTMCell_0/ih/kernel                                3,3,16,128   rrrbc  3,3,16,4,32
ConvLSTMCell_0/ih/bias                                  128          -
ConvLSTMCell_0/hh/kernel                                3,3,32,128   rrrbc  3,3,32,4,32
ConvLSTMCell_0/hh/bias                                  128          -
keras/conv_lstm2d/kernel                                5,5,16,128   rrrbc  5,5,16,4,32
keras/conv_lstm2d/recurrent_kernel                      5,5,32,128   rrrbc  5,5,32,4,32
plain/ih/kernel                                         20,128       rbc    20,4,32
plain/hh/kernel                                         32,128       rbc    32,4,32
mlstm/fgate/kernel                                      4,32,32      brc
mlstm/fgate/bias                                        128          -

# a convolutional LSTM of Haiku: default haiku
conv2_d_lstm/input_to_hidden/w                          3,3,16,128   rrrbc  3,3,16,4,32
conv2_d_lstm/input_to_hidden/b                          128          -
conv2_d_lstm/hidden_to_hidden/w                         3,3,32,128   rrrbc  3,3,32,4,32
conv2_d_lstm/hidden_to_hidden/b                         128          -

# tables by names of one field: default flax torch haiku
perceiver/trainable_position_encoding/pos_embs          512,64       -
token_embd/weight                                       512,64       -
user_factors                                            512,64       -
item_factors/weight                                     512,64       -
word_vectors                                            512,64       -
word_vectors/weight                                     512,64       -
object_queries                                          100,64       -
latent_queries/weight                                   100,64       -
attention/queries/kernel                                64,64        rc

# llama, Meta: default torch
tok_embeddings/weight                                   512,64       -
layers/0/attention/wq/weight                            64,64        rc
layers/0/attention/output/weight                        64,64        rc
layers/0/feed_forward/w1/weight                         172,64       rc
output/weight                                           512,64       -

# the outputs of a language model without its table: default torch
output/weight                                           32000,4096   -
decoder/output/weight                                   32000,4096   rc

# the outputs of a classifier: default torch
output/weight                                           1000,512     rc
embedding/weight                                        300,512      -

# scanned layers beside a table that all of them share: default flax
layers/foo/kernel                                       6,64,64      brc
layers/norm/scale                                       6,64         -
layers/relpos/rel_embedding                             4,32         -
embedding                                               512,64       -
final_norm/scale                                        64           -
"""
