"""H.264: the differentiable simulators.

Modules, with the corresponding clauses of the standard (ITU-T H.264) and source files of x264:

=====================  ==============================================  ==========================  ========================
module                 contents                                        clause                      x264
=====================  ==============================================  ==========================  ========================
``encoder``            the block diagram, in one function                                          encoder/encoder.c
``plan``               frames to be coded, their groups, the source    7.4.1.2, 8.2.4
``gop``                frame types, references, coding order           8.2.4                       encoder/slicetype.c
``lookahead``          cost estimates at half resolution                                           encoder/slicetype.c
``frame_types``        I, P and B by cost, scene cuts                                              encoder/slicetype.c
``rate_control``       CRF to QP: frames, AQ, macroblock tree                                      encoder/ratecontrol.c
``bitrate``            CRF of a bitrate
``prediction``         intra and inter prediction of a group           8.3, 8.4                    encoder/analyse.c
``motion``             vectors from a search or from a guide           8.4.1                       encoder/me.c
``inter``              direct, skip and transform decisions            8.4.1                       encoder/analyse.c
``direct``             inferred vectors (direct, skip)                 8.4.1.1, 8.4.1.2            common/mvpred.c
``dpb``                decoded picture buffer, quarter-pel planes      C.4, 8.4.2.2                common/frame.c
``bits``               size of frames                                  9.3                         encoder/cabac.c
``presets``            preset settings, constants fitted to x264                                   common/base.c
``options``            tunes, profiles, options as preset settings                                 common/base.c
``guide``              decisions of a real encode
``ops/color``          RGB to 4:2:0 and back, as swscale               E.2.1
``ops/interpolate``    quarter-pel samples, blocks, bipred             8.4.2.2                     common/mc.c
``ops/motion_search``  search, partitions, directions of B frames      8.4.1                       encoder/me.c, analyse.c
``ops/intra``          modes and types of intra macroblocks            8.3                         common/predict.c
``ops/residual``       transform, quantisation, trellis, decimation    8.5                         common/dct.c, quant.c,
                                                                                                   encoder/rdo.c
``ops/deblock``        boundary strengths, loop filter                 8.7                         common/deblock.c
``ops/common``         tables; SAD, SATD, SA8D                         tables 8-15 to 8-17         common/pixel.c
=====================  ==============================================  ==========================  ========================

Terms: QP, quantisation parameter of a macroblock; lambda (``lam``), Lagrange multiplier of decisions, in distortion per bit; mv, a motion vector
in quarter pixels, (y, x); list 0 and list 1, references in the past and in the future (``past``, ``future``); ``ref_idx``, index of a reference in a
list; ``slot``, index of its quarter-pel planes; ``mb_type``, type of an intra macroblock (0: 16x16, 1: 8x8, 2: 4x4).
"""

from .codec import DiffH264
from .gop import Gop, middle, pattern
from .guide import Guide
from .options import OPTIONS, PROFILES, TUNES
from .presets import PRESETS, Constants, FittedTo, Preset, calibration
from .revmark import REVMarkH264
from .x264 import X264H264

__all__ = [
    "OPTIONS",
    "PRESETS",
    "PROFILES",
    "TUNES",
    "X264H264",
    "Constants",
    "DiffH264",
    "FittedTo",
    "Gop",
    "Guide",
    "Preset",
    "REVMarkH264",
    "calibration",
    "middle",
    "pattern",
]
