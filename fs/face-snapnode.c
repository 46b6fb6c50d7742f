#include "face-wire.h"
bool
face_snap_of(Face *face, uint64_t node, FaceDisk **disk, uint64_t *id,
             uint64_t *other)
{
    (void)face;
    (void)node;
    (void)disk;
    (void)id;
    (void)other;
    return false;
}
